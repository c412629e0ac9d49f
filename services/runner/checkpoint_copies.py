"""Copies of checkpoints that lie on other hosts, fetched to this machine when somebody needs them: to export, or to resume elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from services.runner.fleet import Fleet, located

# One fetch of a checkpoint at a time; who asks meanwhile waits for the same.
_fetching: dict[str, asyncio.Task[Path]] = {}


async def local_copy(fleet: Fleet, url: str, origin: Placement | None) -> Path:
    """A folder of this machine with the whole checkpoint. Raises NOT_FOUND when it is there no more, LinkDownError."""
    host_id, source = located(url, fleet.own_id)
    if host_id == fleet.own_id:
        return source
    if url not in _fetching:
        _fetching[url] = asyncio.create_task(_fetch(fleet, url, host_id, source, origin))
        _fetching[url].add_done_callback(lambda _: _fetching.pop(url, None))
    return await asyncio.shield(_fetching[url])


async def _fetch(fleet: Fleet, url: str, host_id: str, source: Path, origin: Placement | None) -> Path:
    # The name of the folder stays: verl reads the step from it.
    folder = fleet.settings.root() / "cache" / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:32]
    target = folder / source.name
    if await asyncio.to_thread(target.is_dir):
        return target
    backend = fleet.backend(host_id) if origin is None else fleet.of(origin)
    draft = folder / f"{source.name}.draft"
    await backend.fetch(source, draft)
    if not await asyncio.to_thread(draft.is_dir):
        message = f"There is no checkpoint at {url}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "It was deleted on its host; `ltp checkpoints JOB` shows the others.")
    await asyncio.to_thread(_put_in_place, draft, target)
    return target


def _put_in_place(draft: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(draft)
    else:
        os.replace(draft, target)
