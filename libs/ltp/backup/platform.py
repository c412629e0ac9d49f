"""A backup of a platform, and a platform out of a backup: which servers, in which order, and what must not be overwritten."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nats
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from ltp.backup import archive, database, streams
from ltp.bus.recovery import stream_born_at
from ltp.bus.streams import EVENTS
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import now
from ltp.store.schema import head
from ltp.up.platform import make_plan
from ltp.up.servers import database_url
from ltp.up.services import Commands
from ltp.up.state import DataDir, claim, prepare, require_free_space
from ltp.up.supervisor import Supervisor

# Clocks of hosts disagree; what is looked at twice is found in the stream by its id.
_OVERLAP = timedelta(minutes=2)
# The newest checkpoint of each job that is not over: what it goes on from.
_NEEDED = text("""
    SELECT checkpoint_path FROM scheduler.jobs
    WHERE ended_at IS NULL AND checkpoint_path IS NOT NULL AND checkpoint_path NOT LIKE '%://%'
""")


@dataclass(frozen=True)
class Servers:
    """Where the bus and the database are; the URL of the database holds its password."""

    nats_url: str
    database_url: str


def running_servers(data: DataDir, environ: Mapping[str, str]) -> Servers:
    """The servers of the platform that runs now. Raises SERVICE_UNAVAILABLE when none does."""
    record = data.running()
    nats_url = environ.get("LTP_NATS_URL") or (record.urls["nats"] if record else None)
    url = environ.get("LTP_DATABASE_URL") or (database_url(data, record.ports["postgres"]) if record else None)
    if nats_url is None or url is None:
        message = f"No platform runs on {data.root}."
        hint = "`ltp up -d` starts it; or name servers of your own in LTP_NATS_URL and LTP_DATABASE_URL."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, hint)
    return Servers(nats_url, url)


async def back_up(data: DataDir, servers: Servers, target: Path, *, models: bool) -> dict[str, Any]:
    """Write a backup of a running platform; what is in it, in numbers."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ltp-backup-") as folder:
        parts = Path(folder)
        (parts / "streams").mkdir()
        began_at = now()
        client = await nats.connect(servers.nats_url, max_reconnect_attempts=1)
        try:
            taken = await streams.take(client, parts / "streams")
        finally:
            await client.close()
        await database.dump(servers.database_url, parts / "postgres.dump")
        about = {"taken_at": began_at.isoformat(), "schema": head(), "streams": taken}
        files = list(archive.files_of(data.root, await _needed_checkpoints(servers.database_url), models=models))
        size = archive.write(target, parts, data.root, files, about)
    events = taken.get(EVENTS, {}).get("state", {})
    return {"path": str(target), "bytes": size, "files": len(files), "events": events.get("messages", 0),
            "last_sequence": events.get("last_seq", 0), "taken_at": began_at.isoformat()}  # fmt: skip


async def restore(
    data: DataDir, source: Path, environ: Mapping[str, str], *, force: bool, dry_run: bool
) -> dict[str, Any]:
    """Make a platform that is stopped go on from a backup. Raises CONFLICT for a place that is not empty, without `force`."""
    if data.running():
        message = f"The platform runs on {data.root}."
        raise LtpError(ErrorCode.CONFLICT, message, "Stop it with `ltp down`, restore, and start it again.")
    with tempfile.TemporaryDirectory(dir=_existing(data.root), prefix=".ltp-restore-") as folder:
        unpacked = Path(folder)
        about = archive.read(source, unpacked)
        _require_known(source, about)
        used = _used(data)
        if used and not force:
            raise _not_empty(str(data.root), ", ".join(used[:5]))
        told = {"taken_at": about["taken_at"], "streams": sorted(about["streams"]), "files": len(about["digests"])}
        if dry_run:
            return told | {"dry_run": True, "overwrites": used}
        prepare(data)
        with claim(data):
            require_free_space(data)
            if used:
                _clear(data, environ)
            _copy(unpacked / "files", data.root)
            async with _servers(data, environ) as servers:
                if not force and await _in_use(servers):
                    raise _not_empty("the servers", "jobs or events")
                told["said_again"] = await _fill(servers, unpacked, about)
    return told


async def _fill(servers: Servers, unpacked: Path, about: dict[str, Any]) -> int:
    await database.load(servers.database_url, unpacked / "parts" / "postgres.dump")
    client = await nats.connect(servers.nats_url, max_reconnect_attempts=1)
    try:
        await streams.put_back(client, unpacked / "parts" / "streams", about["streams"])
        since = datetime.fromisoformat(about["taken_at"]) - _OVERLAP
        known = await streams.message_ids_since(client, since.isoformat().replace("+00:00", "Z"))
        born_at = await stream_born_at(client.jetstream())
    finally:
        await client.close()
    told = await database.unpublish(servers.database_url, since, known)
    if born_at is not None:
        await database.own_streams(servers.database_url, born_at)
    await database.release_work(servers.database_url)
    return told


async def _needed_checkpoints(url: str) -> list[Path]:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return [Path(row.checkpoint_path) for row in (await connection.execute(_NEEDED)).all()]
    finally:
        await engine.dispose()


@asynccontextmanager
async def _servers(data: DataDir, environ: Mapping[str, str]) -> AsyncIterator[Servers]:
    """The servers to fill: those named, and the embedded ones, started for as long as it takes."""
    plan = make_plan(data, None, Commands({}, None), environ)
    urls = {server.variable: server.url for server in plan.servers}
    specs = [server.spec for server in plan.servers if server.spec and server.name in {"nats", "postgres"}]
    stop, ready = asyncio.Event(), asyncio.Event()
    supervisor = Supervisor(specs, [], None, lambda: None)
    task = asyncio.create_task(supervisor.run(stop, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield Servers(urls["LTP_NATS_URL"], urls["LTP_DATABASE_URL"])
    finally:
        waiting.cancel()
        stop.set()
        await task


async def _in_use(servers: Servers) -> bool:
    client = await nats.connect(servers.nats_url, max_reconnect_attempts=1)
    try:
        return bool(await streams.messages(client)) or bool(await database.jobs_in(servers.database_url))
    finally:
        await client.close()


def _used(data: DataDir) -> list[str]:
    """What of a platform a data directory holds; files that only a start makes are nothing."""
    fresh = {"lock", "logs", "nats.conf", "secrets", "prometheus.yml", "prometheus-rules.yml"}
    if not data.root.exists():
        return []
    return sorted(p.name for p in data.root.iterdir() if p.name not in fresh and not p.name.startswith(".ltp-restore-"))


def _clear(data: DataDir, environ: Mapping[str, str]) -> None:
    """Take away what is to be overwritten, servers' stores included; models and what is nobody's stay."""
    gone = ["datasets", "uploads", "runs", "rewards", "scorers", "hosts"]
    gone += [] if environ.get("LTP_DATABASE_URL") else ["pg"]
    gone += [] if environ.get("LTP_NATS_URL") else ["nats"]
    gone += [] if environ.get("LTP_MILVUS_URI") else ["milvus"]
    for name in gone:
        shutil.rmtree(data.root / name, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
    for secret in (target / "secrets").glob("*"):
        secret.chmod(0o600)


def _existing(path: Path) -> Path:
    """The folder itself or the nearest one above it that exists, so that unpacking needs room where it will lie."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _require_known(source: Path, about: dict[str, Any]) -> None:
    """A backup of a newer schema cannot be used; one of an older is migrated at the next start."""
    if str(about["schema"]) > head():
        message = f"{source} is of schema {about['schema']}, and this ltp knows {head()}."
        raise LtpError(ErrorCode.CONFLICT, message, "Install the ltp that made it, or a newer one.")


def _not_empty(where: str, what: str) -> LtpError:
    message = f"{where} is not empty: {what}."
    return LtpError(ErrorCode.CONFLICT, message, "Give an empty --data-dir, or --force to overwrite what is there.")
