"""Duplicates within and across versions, and leaks of evaluation rows into training rows."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid5

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from ltp.bus.rpc import ask
from ltp.contracts.dedup import (
    DedupApplyRequested,
    DedupAsk,
    DedupList,
    DedupQuestion,
    DedupRequested,
    DedupRun,
    DedupsRequest,
    LeakAsk,
    LeakCheck,
    LeakCheckRequested,
    LeakChecks,
    LeaksRequest,
    LeakWarnings,
    RemovalPage,
    Thresholds,
)
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import acting_project, sought_in
from ltp.store.clock import new_id, now
from services.gateway import store
from services.gateway.access import Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.routes.datasets import show_dataset
from services.gateway.routes.models import Dataset
from services.gateway.routes.named import DoneOrder, Named, once_known, resolve_named, resolve_ref

router = APIRouter(tags=["datasets"])

Threshold = Annotated[float | None, Query(gt=0, le=1, description="Left out: the threshold of the search.")]


class Application(BaseModel):
    """At which thresholds to remove, and what the version without the duplicates is called (none: the same name)."""

    cosine: float | None = Field(default=None, gt=0, le=1)
    jaccard: float | None = Field(default=None, gt=0, le=1)
    name: Name | None = None


@router.post("/datasets/{named}/dedup", status_code=202)
async def find_duplicates(named: Named, wanted: DedupAsk, runtime: Serving, response: Response) -> DedupRun:
    """Look for duplicates in the background; nothing is removed. Poll the Location until `completed` or `failed`."""
    target = await resolve_named(runtime, named)
    assert target.version is not None
    against = [await resolve_ref(runtime, ref) for ref in wanted.against]
    if target in against:
        message = f"{target.name} cannot be compared against itself: every row would be its own twin."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Its own duplicates are found without naming it.")
    event = DedupRequested(dedup_id=new_id(), name=target.name, version=target.version, ask=wanted, against=against)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=event.dedup_id)
    response.headers["Location"] = f"/api/v1/datasets/{named}/dedup/{event.dedup_id}"
    queued = DedupRun(
        **wanted.model_dump(include={"method", "part", "model", "thresholds"}),
        dedup_id=event.dedup_id,
        name=target.name,
        version=target.version,
        against=against,
        state="queued",
        created_at=now(),
    )

    async def look() -> DedupRun:
        return (await _removals(runtime, DedupQuestion(dedup_id=event.dedup_id, limit=1))).dedup

    return await once_known(look, queued)


@router.get("/datasets/{named}/dedup")
async def list_dedups(
    named: Named,
    runtime: Serving,
    paging: Paging,
    sort: Annotated[DoneOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> DedupList:
    """Searches for duplicates, newest first."""
    target = await resolve_named(runtime, named)

    async def read(page: PageQuery) -> list[DedupRun]:
        query = DedupsRequest(**dict(page), name=target.name)
        return (await ask(runtime.client, "dataset", "dedups", query, DedupList)).dedups

    page = await paging.page(read, identity="dedup_id", sort=sort, cursor=cursor, limit=limit)
    return DedupList(dedups=page.items, next_cursor=page.next_cursor)


@router.get("/datasets/{named}/dedup/{dedup_id}")
async def preview_removals(
    named: Named,
    dedup_id: UUID,
    runtime: Serving,
    cosine: Threshold = None,
    jaccard: Threshold = None,
    offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> RemovalPage:
    """What would go, each with the row that stays for it, at the thresholds of the search or at these."""
    return await _removals(
        runtime, DedupQuestion(dedup_id=dedup_id, cosine=cosine, jaccard=jaccard, offset=offset, limit=limit)
    )


@router.post("/datasets/{named}/dedup/{dedup_id}/apply", status_code=202)
async def apply_dedup(
    named: Named, dedup_id: UUID, wanted: Application, runtime: Serving, response: Response
) -> Dataset:
    """Make a version without the duplicates. The same application twice is one; poll the Location until `frozen`."""
    question = DedupQuestion(dedup_id=dedup_id, cosine=wanted.cosine, jaccard=wanted.jaccard, limit=1)
    page = await _removals(runtime, question)
    if page.dedup.state != "completed":
        message = f"The search for duplicates {dedup_id} is {page.dedup.state}."
        raise LtpError(ErrorCode.DEDUP_NOT_READY, message, "Only a completed one can be applied.")
    if page.total == 0:
        message = f"At these thresholds no row of {page.dedup.name} repeats another."
        raise LtpError(ErrorCode.CONFLICT, message, "Nothing is to be removed; the version stays as it is.")
    name, thresholds = wanted.name or page.dedup.name, page.dedup.thresholds
    dataset_id = uuid5(dedup_id, f"{name}:{_spelt(thresholds)}")
    project = acting_project()
    event = DedupApplyRequested(
        dedup_id=dedup_id, dataset_id=dataset_id, thresholds=thresholds, name=name, project=project
    )
    async with runtime.database.unit() as unit:
        await store.change_dataset(unit, dataset_id, {"name": name})
        unit.emit(event, about=dedup_id)
    response.headers["Location"] = f"/api/v1/datasets/{dataset_id}"
    return await show_dataset(dataset_id, runtime.database.engine)


@router.post("/datasets/{named}/leaks", status_code=202)
async def check_leaks(named: Named, wanted: LeakAsk, runtime: Serving, response: Response) -> LeakCheck:
    """Look for evaluation rows among training rows in the background; poll the Location."""
    target = await resolve_named(runtime, named)
    assert target.version is not None
    against = [await resolve_ref(runtime, ref) for ref in wanted.against]
    event = LeakCheckRequested(
        check_id=new_id(), name=target.name, version=target.version, ask=wanted, against=against,
        project=acting_project(),
    )  # fmt: skip
    async with runtime.database.unit() as unit:
        unit.emit(event, about=event.check_id)
    response.headers["Location"] = f"/api/v1/datasets/{named}/leaks/{event.check_id}"
    queued = LeakCheck(
        check_id=event.check_id,
        name=target.name,
        version=target.version,
        against=against,
        ask=wanted,
        state="queued",
        created_at=now(),
    )
    return await once_known(lambda: show_leak_check(named, event.check_id, runtime), queued)


@router.get("/datasets/{named}/leaks")
async def list_leak_checks(
    named: Named,
    runtime: Serving,
    paging: Paging,
    sort: Annotated[DoneOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> LeakChecks:
    """Leak checks of a version, newest first, without their rows."""
    target = await resolve_named(runtime, named)

    async def read(page: PageQuery) -> list[LeakCheck]:
        query = LeaksRequest(**dict(page), name=target.name, version=target.version)
        return (await ask(runtime.client, "dataset", "leaks", query, LeakChecks)).checks

    page = await paging.page(read, identity="check_id", sort=sort, cursor=cursor, limit=limit)
    return LeakChecks(checks=page.items, next_cursor=page.next_cursor)


@router.get("/datasets/{named}/leaks/warnings")
async def warn_of_leaks(named: Named, runtime: Serving) -> LeakWarnings:
    """What a submitter should know: what the newest checks of the version found, and whether there was one."""
    target = await resolve_named(runtime, named)
    asked = target.model_copy(update={"project": sought_in()})
    return await ask(runtime.client, "dataset", "leak-warnings", asked, LeakWarnings)


@router.get("/datasets/{named}/leaks/{check_id}")
async def show_leak_check(named: Named, check_id: UUID, runtime: Serving) -> LeakCheck:
    """One check with the first 200 leaks it found."""
    return (await ask(runtime.client, "dataset", "leaks", LeaksRequest(check_id=check_id), LeakChecks)).checks[0]


async def _removals(runtime: Runtime, question: DedupQuestion) -> RemovalPage:
    return await ask(runtime.client, "dataset", "removals", question, RemovalPage, timeout=60.0)


def _spelt(thresholds: Thresholds) -> str:
    return f"{thresholds.cosine:.6f}:{thresholds.jaccard:.6f}"
