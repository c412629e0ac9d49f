"""Copies of checkpoints that lie on other hosts, fetched to this machine when somebody needs them: to export, or to resume elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from services.runner.backends import Backend
from services.runner.fleet import Fleet, located

# What an exported model is made of, in every layout of verl's.
_WEIGHTS = ("*model_world_size_*", "*fsdp_config.json", "*huggingface/*", "*lora_adapter/*", "*lora_train_meta.json")
_ANSWER_SECONDS = 3.0
# One fetch of a checkpoint at a time; who asks meanwhile waits for the same.
_fetching: dict[Path, asyncio.Task[Path]] = {}


async def local_copy(fleet: Fleet, url: str, origin: Placement | None, *, weights_only: bool = False) -> Path:
    """A folder of this machine with the checkpoint. Raises NOT_FOUND when it is there no more, LinkDownError."""
    return await asyncio.shield(_task(fleet, url, origin, weights_only))


async def begun_copy(fleet: Fleet, url: str, origin: Placement | None, *, weights_only: bool) -> Path | None:
    """As `local_copy`, but None while the copy is on its way."""
    task = _task(fleet, url, origin, weights_only)
    done, _ = await asyncio.wait({task}, timeout=_ANSWER_SECONDS)
    return task.result() if done else None


def _task(fleet: Fleet, url: str, origin: Placement | None, weights_only: bool) -> asyncio.Task[Path]:
    host_id, source = located(url, fleet.own_id)
    # The name of the folder stays: verl reads the step from it.
    key = hashlib.sha256(f"{url}{' weights' if weights_only else ''}".encode()).hexdigest()[:32]
    target = fleet.settings.root() / "cache" / "checkpoints" / key / source.name
    if target not in _fetching:
        members = fleet.of(origin) if origin is not None else fleet.backend(host_id)
        task = asyncio.create_task(_fetch(members, source, target, _WEIGHTS if weights_only else None))
        task.add_done_callback(lambda _: _fetching.pop(target, None))
        _fetching[target] = task
    return _fetching[target]


async def _fetch(backend: Backend, source: Path, target: Path, only: tuple[str, ...] | None) -> Path:
    if await asyncio.to_thread(target.is_dir):
        return target
    draft = target.with_name(f"{target.name}.draft")
    await backend.fetch(source, draft, only)
    if not await asyncio.to_thread(draft.is_dir):
        message = f"There is no checkpoint at {backend.url(source)}."
        raise LtpError(
            ErrorCode.NOT_FOUND, message, "It was deleted on its host; `ltp checkpoints JOB` shows the others."
        )
    await asyncio.to_thread(os.replace, draft, target)
    return target
