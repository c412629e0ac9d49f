"""The training runs of this host that outlive the platform on purpose: who they are, and how they are asked to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ltp.up import procfs


@dataclass(frozen=True)
class LiveRun:
    """An attempt whose launcher is alive."""

    run: str
    attempt: str
    launcher_pid: int
    launcher_start_ticks: int
    stop_file: Path

    @property
    def alive(self) -> bool:
        """True while its launcher runs."""
        return procfs.is_alive(self.launcher_pid, self.launcher_start_ticks)

    def ask_to_stop(self) -> None:
        """Leave the sign on which the launcher writes a checkpoint and ends."""
        self.stop_file.touch()


def live_runs(runs: Path) -> list[LiveRun]:
    """Find the attempts under DATA/runs that are still going on."""
    found = [_read(path.parent) for path in sorted(runs.glob("*/attempt-*/status.json"))]
    return [run for run in found if run and run.alive]


def wait_for_end(runs: list[LiveRun], wait: Callable[[], None]) -> None:
    """Call `wait` until every launcher has ended."""
    while any(run.alive for run in runs):
        wait()


def _read(attempt: Path) -> LiveRun | None:
    status = _json(attempt / "status.json")
    pid, ticks = status.get("launcher_pid"), status.get("launcher_start_ticks")
    if not isinstance(pid, int) or not isinstance(ticks, int):
        return None
    return LiveRun(attempt.parent.name, attempt.name, pid, ticks, _stop_file(attempt))


def _stop_file(attempt: Path) -> Path:
    """Take the launcher's own stop file, unless it points out of the attempt's directory."""
    told = _json(attempt / "launch.json").get("stop_file")
    path = (attempt / told).resolve() if isinstance(told, str) else attempt / "stop"
    return path if path.is_relative_to(attempt.resolve()) else attempt / "stop"


def _json(path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
