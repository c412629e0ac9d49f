"""Looking after hosts: each says what it has, at once and then now and again; what keeps one from answering is noted.

A host that does not answer says nothing on the bus, so the scheduler gives it nothing new; what runs on it goes on.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import structlog
from sqlalchemy.exc import DBAPIError

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import now
from ltp.store.database import Database
from services.runner import hosts_store
from services.runner.backends import Backend, LinkDownError
from services.runner.backends.ssh import SshBackend
from services.runner.fleet import Fleet
from services.runner.host import describe, seen
from services.runner.settings import RunnerSettings
from services.runner.ssh.link import KeyChangedError

_LOOK_SECONDS = 1.0


async def tell_host(database: Database, settings: RunnerSettings) -> None:
    """Say what this machine has, at once and then now and again."""
    while True:
        said = await describe(settings.host_id())
        async with database.unit() as unit:
            unit.emit(said, about=said.host_id)
        await asyncio.sleep(settings.runner_host_seen_seconds)


async def watch_hosts(fleet: Fleet) -> None:
    """Take over what operators change, and keep one look-out a registered host."""
    watches: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            for name in await fleet.refresh():
                if name in watches:
                    watches.pop(name).cancel()
            for name in set(watches) - set(fleet.remote_ids()):
                watches.pop(name).cancel()
            for name in set(fleet.remote_ids()) - set(watches):
                watches[name] = asyncio.create_task(_watch(fleet, name), name=f"watch {name}")
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        for task in watches.values():
            task.cancel()


async def _watch(fleet: Fleet, host_id: str) -> None:
    while True:
        try:
            await look_at(fleet, host_id)
        except DBAPIError as error:
            structlog.get_logger().warning("a host could not be noted", host_id=host_id, error=type(error).__name__)
        await asyncio.sleep(fleet.settings.runner_host_seen_seconds)


async def look_at(fleet: Fleet, host_id: str) -> None:
    """Ask a host what it has and say it; or note why it cannot be used."""
    backend = fleet.backend(host_id)
    try:
        facts = await backend.facts()
        refuse_unusable(host_id, facts)
    except (LtpError, OSError) as error:
        await _note_problem(fleet, host_id, error)
        return
    reached_by: Literal["ssh", "ray"] = "ssh" if isinstance(backend, SshBackend) else "ray"
    values = await _where(backend)
    async with fleet.database.unit() as unit:
        values |= {"reached_at": now(), "problem": None, "shown_fingerprint": None}
        if await hosts_store.note(unit, host_id, **values):
            unit.emit(seen(host_id, reached_by, facts), about=host_id)


async def _where(backend: Backend) -> dict[str, object]:
    if not isinstance(backend, SshBackend):
        return {}
    place = await backend.place()
    return {"root": str(place.root), "interpreter": place.python}


def refuse_unusable(host_id: str, facts: dict[str, object]) -> None:
    """Raises HOST_UNFIT for a host whose working directory cannot be used, or leads somewhere else."""
    folder: dict[str, object] = facts.get("folder") or {}  # type: ignore[assignment]
    if folder.get("problem"):
        message = f"The working directory {folder['path']} on {host_id} cannot be written: {folder['problem']}."
        raise LtpError(ErrorCode.HOST_UNFIT, message, "Give its owner to the user of the platform, or name another.")
    if folder.get("escapes"):
        message = f"In {folder['path']} on {host_id}, {folder['escapes']} lead out of the working directory."
        raise LtpError(ErrorCode.HOST_UNFIT, message, "Name the real folder as the working directory.")


def problem_of(host_id: str, error: LtpError | OSError) -> Problem:
    """What keeps a host from being used, for people."""
    if isinstance(error, LtpError):
        return Problem.of(error)
    down = isinstance(error, LinkDownError)
    message = str(error) if down else f"{host_id}: {error}"
    hint = f"`ltp host test {host_id}` tells where the way ends. What runs there goes on."
    return Problem(code=ErrorCode.HOST_UNREACHABLE, message=message, hint=hint)


async def _note_problem(fleet: Fleet, host_id: str, error: LtpError | OSError) -> None:
    structlog.get_logger().warning("a host cannot be used", host_id=host_id, error=str(error)[:300])
    values: dict[str, object] = {"problem": problem_of(host_id, error).model_dump(mode="json")}
    if isinstance(error, KeyChangedError):
        values["shown_fingerprint"] = error.shown
    async with fleet.database.unit() as unit:
        await hosts_store.note(unit, host_id, **values)
