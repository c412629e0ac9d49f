"""Which version a path means: a dataset's id, its name, or NAME@VERSION (the first digits are enough)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from fastapi import Path
from pydantic import ValidationError

from ltp.bus.rpc import ask
from ltp.contracts.dedup import VersionRef
from ltp.contracts.search import Resolved, ResolveRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import sought_in
from services.gateway import store, store_names

T = TypeVar("T")
# What lists of that which is done to a dataset sort by.
DoneOrder = Literal["-created_at", "created_at", "-state", "state"]

_LOOKS, _LOOK_SECONDS = 60, 0.05

Named = Annotated[
    str, Path(max_length=200, description="A dataset's id, its name (the newest version), or NAME@VERSION.")
]


async def resolve_named(runtime: Runtime, named: str) -> VersionRef:
    """The version with its whole hash. Raises LtpError: INVALID_REQUEST, NOT_FOUND, DATASET_NOT_READY, SERVICE_UNAVAILABLE."""
    return await resolve_ref(runtime, await reference(runtime, named))


async def resolve_ref(runtime: Runtime, ref: VersionRef) -> VersionRef:
    """The same version with its whole hash, which needs no project."""
    ref = ref if ref.project else ref.model_copy(update={"project": sought_in()})
    found = await ask(runtime.client, "dataset", "resolve", ResolveRequest(target=ref), Resolved)
    return VersionRef(name=found.name, version=found.version)


async def once_known(look: Callable[[], Awaitable[T]], otherwise: T) -> T:
    """What `look` finds once the owner has heard of it, so that a client can ask for it at once; else `otherwise`."""
    for _ in range(_LOOKS):
        try:
            return await look()
        except LtpError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                return otherwise
        await asyncio.sleep(_LOOK_SECONDS)
    return otherwise


async def reference(runtime: Runtime, named: str) -> VersionRef:
    """What a path names, not yet looked up."""
    try:
        dataset_id = UUID(named)
    except ValueError:
        name, _, version = named.partition("@")
        try:
            return VersionRef(name=name, version=version or None, project=sought_in())
        except ValidationError as error:
            message = f"{named!r} is neither a dataset's id nor its name nor NAME@VERSION."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "`ltp dataset list` shows what there is.") from error
    row = await store.dataset(runtime.database.engine, dataset_id)
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dataset {dataset_id}.", "`ltp dataset list` shows all.")
    if row["version"] is None:
        message = f"Dataset {dataset_id} has no version: it is {row['state']}."
        raise LtpError(ErrorCode.DATASET_NOT_READY, message, "Wait until it is frozen.")
    project = await store_names.project_of(runtime.database.engine, dataset_id)
    return VersionRef(name=row["name"], version=row["version"], project=project)
