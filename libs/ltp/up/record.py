"""DATA/run.json: what runs on a data directory now, for `status`, `down`, the CLI, and the next `up` after a crash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from ltp.up import procfs


class ProcessState(StrEnum):
    """How far a supervised process has come."""

    WAITING = "waiting"  # something it needs is being prepared
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass
class ProcessRecord:
    """One supervised process; `probe` is the URL that tells whether it is ready (see `probe.py`)."""

    name: str
    port: int
    probe: str
    state: str = ProcessState.WAITING
    pid: int | None = None
    start_ticks: int | None = None
    started_at: str | None = None
    restarts: int = 0

    @property
    def alive(self) -> bool:
        """True while the recorded process, and no later owner of its pid, runs."""
        return procfs.is_alive(self.pid, self.start_ticks)


@dataclass
class RunRecord:
    """One life of the platform; URLs carry no password."""

    pid: int
    start_ticks: int
    started_at: str
    ports: dict[str, int]
    urls: dict[str, str]
    processes: list[ProcessRecord]
    ready_at: str | None = None

    @property
    def alive(self) -> bool:
        """True while the supervisor that wrote the record runs."""
        return procfs.is_alive(self.pid, self.start_ticks)


def read_record(path: Path) -> RunRecord | None:
    """Read a record; one that is missing or unreadable says that nothing is known to run."""
    try:
        raw = cast(dict[str, Any], json.loads(path.read_text()))
        processes = [ProcessRecord(**entry) for entry in raw.pop("processes")]
        return RunRecord(processes=processes, **raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_record(path: Path, record: RunRecord) -> None:
    """Replace the record in one step, so that a reader never sees half of it."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(record), indent=2) + "\n")
    draft.replace(path)


def now() -> str:
    """Return the time as records write it: UTC, RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: str | None) -> float | None:
    """Return the age of a recorded time in seconds."""
    if moment is None:
        return None
    return max(0.0, round((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 3))
