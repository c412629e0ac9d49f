"""What `ltp status` says: the record on disk, checked against /proc and asked for readiness."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass

from ltp.up.probe import answers
from ltp.up.record import ProcessRecord, ProcessState, RunRecord, seconds_since
from ltp.up.state import DataDir


@dataclass(frozen=True)
class ProcessStatus:
    """One process as it is now; `state` is `not_ready` when it lives but does not answer."""

    name: str
    state: str
    pid: int | None
    restarts: int
    uptime_seconds: float | None
    port: int


@dataclass(frozen=True)
class PlatformStatus:
    """The platform on one data directory."""

    running: bool
    ready: bool
    data_dir: str
    pid: int | None = None
    started_at: str | None = None
    uptime_seconds: float | None = None
    urls: dict[str, str] | None = None
    processes: tuple[ProcessStatus, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return what `ltp status --json` prints."""
        return asdict(self)


async def platform_status(data: DataDir) -> PlatformStatus:
    """Ask every process at once."""
    record = data.running()
    if record is None:
        return PlatformStatus(running=False, ready=False, data_dir=str(data.root))
    return await _ask(data, record)


async def _ask(data: DataDir, record: RunRecord) -> PlatformStatus:
    processes = await asyncio.gather(*(_process(entry) for entry in record.processes))
    return PlatformStatus(
        running=True,
        ready=record.ready_at is not None and all(entry.state == ProcessState.READY for entry in processes),
        data_dir=str(data.root),
        pid=record.pid,
        started_at=record.started_at,
        uptime_seconds=seconds_since(record.started_at),
        urls=record.urls,
        processes=tuple(processes),
    )


async def _process(entry: ProcessRecord) -> ProcessStatus:
    alive = entry.alive
    state = entry.state
    if alive and state == ProcessState.READY and not await answers(entry.probe):
        state = "not_ready"
    return ProcessStatus(
        name=entry.name,
        state=state,
        pid=entry.pid if alive else None,
        restarts=entry.restarts,
        uptime_seconds=seconds_since(entry.started_at) if alive else None,
        port=entry.port,
    )
