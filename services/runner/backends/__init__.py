"""Where training processes run: what the runner needs of a host, whatever the way to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from ltp.verl_recipe import LaunchSpec


@dataclass(frozen=True)
class LaunchStatus:
    """What a launcher wrote in status.json. `alive` tells whether that launcher still runs."""

    launcher_pid: int
    launcher_start_ticks: int
    pid: int
    pgid: int
    state: Literal["running", "exited"]
    started_at: datetime
    heartbeat_at: datetime
    exit_code: int | None
    signal: int | None
    ended_at: datetime | None
    reason: Literal["stopped", "time_limit"] | None
    alive: bool


class Backend(Protocol):
    """A host that launches attempts and keeps the truth about them in their run directories."""

    async def launch(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Start the attempt. Raises LtpError CONFLICT if it was started before, LAUNCH_FAILED if it cannot be."""
        ...

    async def status(self, run_dir: Path) -> LaunchStatus | None:
        """The launcher's last word, or None before it said anything."""
        ...

    async def read(self, run_dir: Path, name: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a file of the run from `offset`; empty at its end or while it does not exist."""
        ...

    async def request_stop(self, run_dir: Path) -> None:
        """Ask the training process to finish its step, save a checkpoint and leave."""
        ...

    async def kill(self, run_dir: Path) -> None:
        """End the attempt's processes at once; the launcher records the end."""
        ...
