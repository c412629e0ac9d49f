"""Where training processes run: what the runner needs of a host, whatever the way to reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

from ltp.verl_recipe import LaunchSpec


class LinkDownError(ConnectionError):
    """The way to a host is cut at this moment, which says nothing about what runs there."""


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
    reason: Literal["stopped", "time_limit", "hung", "disk_full", "preempted"] | None
    alive: bool
    # What it sees beside the process: silence of the metrics, the disk, the rollout of the step under way.
    stalled: dict[str, Any] | None = None
    disk: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    # Processes of the host that the kernel ended for memory while it ran.
    oom_kills: int | None = None


class Backend(Protocol):
    """A host that launches attempts and keeps the truth about them in their run directories.

    Every method raises LinkDownError (an OSError) while the host cannot be reached, and LtpError HOST_KEY_CHANGED or
    HOST_AUTH_FAILED when it may not be: neither says anything about a run.
    """

    def run_dir(self, run_id: UUID, number: int) -> Path:
        """Where an attempt keeps its truth: a path on the host, which need not be one of this machine."""
        ...

    def url(self, path: Path) -> str:
        """How a path of the host is written in events: `ssh://HOST/path` where it is not one of the platform's machine."""
        ...

    async def bring(self, spec: LaunchSpec, inputs: Sequence[Path]) -> LaunchSpec:
        """Have what the process reads (files and folders of this machine) on the host, and the spec in the host's paths."""
        ...

    async def launch(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Start the attempt. Raises LtpError CONFLICT if it was started before, LAUNCH_FAILED if it cannot be."""
        ...

    async def status(self, run_dir: Path) -> LaunchStatus | None:
        """The launcher's last word, or None before it said anything."""
        ...

    async def size(self, run_dir: Path, name: str) -> int:
        """The bytes of a file of the run; 0 while it does not exist."""
        ...

    async def read(self, run_dir: Path, name: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a file of the run from `offset`; empty at its end or while it does not exist."""
        ...

    async def names(self, run_dir: Path, folder: str) -> list[str]:
        """What a folder of the run holds; nothing while it does not exist."""
        ...

    async def tree(self, run_dir: Path, folder: str) -> dict[str, int]:
        """All files below a folder of the run, relative to it, with their bytes."""
        ...

    async def remove(self, run_dir: Path, folder: str) -> None:
        """Delete a folder of the run; one that does not exist is deleted already. Raises INVALID_REQUEST outside the run."""
        ...

    async def request_stop(self, run_dir: Path) -> None:
        """Ask the training process to finish its step, save a checkpoint and leave."""
        ...

    async def kill(self, run_dir: Path) -> None:
        """End the attempt's processes at once; the launcher records the end."""
        ...

    async def fetch(self, source: Path, target: Path, only: Sequence[str] | None = None) -> None:
        """Copy a folder of the host to this machine: all of it, or the files whose names match one of the patterns."""
        ...

    async def put(self, source: Path, target: Path) -> None:
        """Copy a file or a folder of this machine to the host, whole or not at all."""
        ...

    async def facts(self, python: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
        """What `host_facts.py` finds on the host, and of packages in the environment of `python`."""
        ...

    async def close(self) -> None:
        """Let go of the host; what runs there goes on."""
        ...
