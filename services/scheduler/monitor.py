"""The monitor of work: answers about queues, work, workers and dead letters, does what users ask of them, and tells of work that died."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter
from sqlalchemy import RowMapping

from ltp.bus import letters
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.values import Placement, Problem
from ltp.contracts.work import (
    DeadLetterDropRequested,
    DeadLetterReplayRequested,
    HeldView,
    LettersQuery,
    LettersView,
    LimitSet,
    Nothing,
    ProjectView,
    QueuesView,
    QueueView,
    WorkCancellationRequested,
    WorkDied,
    WorkersView,
    WorkerView,
    WorkPage,
    WorkQuery,
    WorkQuestion,
    WorkRetryRequested,
    WorkView,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue import monitor
from ltp.queue.limits import allowance, set_limit
from ltp.queue.policy import Limit, Queue
from ltp.service.runtime import Runtime
from ltp.store.database import Database

SERVICE = "scheduler"
router = NatsRouter()
Data = Annotated[Database, Context("database")]

_TELL_SECONDS = 1.0

router.publisher(**said(WorkDied))


@router.subscriber(**answered_by(SERVICE, "queues"))
@replies
async def show_queues(_: Nothing, database: Data) -> QueuesView:
    async with database.unit() as unit:
        counts, rows = await monitor.queue_counts(unit), await monitor.limit_rows(unit)
        usage = await allowance(unit)
    limits = {(row["scope"], row["name"]): row for row in rows}
    queues = [_queue(name, counts.get(name, {}), limits.get(("queue", name))) for name in Queue]
    names = {name for scope, name in limits if scope == "project"} | set(usage.running_of_project)
    projects = [
        ProjectView(
            name=name,
            running=usage.running_of_project[name],
            devices=usage.devices_of_project[name],
            **_limit(limits.get(("project", name))),
        )
        for name in sorted(names)
    ]
    return QueuesView(queues=queues, projects=projects)


@router.subscriber(**answered_by(SERVICE, "work-list"))
@replies
async def list_work(query: WorkQuery, database: Data) -> WorkPage:
    equal = query.model_dump(include={"state", "queue", "kind", "project", "owner"})
    async with database.unit() as unit:
        rows = await monitor.list_work(unit, equal, query)
    return WorkPage(work=[_work(row) for row in rows])


@router.subscriber(**answered_by(SERVICE, "work"))
@replies
async def show_work(question: WorkQuestion, database: Data) -> WorkView:
    async with database.unit() as unit:
        row = await monitor.get_work(unit, question.work_id)
    if row is None:
        hint = "`ltp work list` shows what there is; done work is pruned after a while."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no work {question.work_id}.", hint)
    return _work(row)


@router.subscriber(**answered_by(SERVICE, "workers"))
@replies
async def show_workers(_: Nothing, database: Data) -> WorkersView:
    async with database.unit() as unit:
        rows = await monitor.list_workers(unit)
    return WorkersView(workers=[_worker(row) for row in rows])


@router.subscriber(**answered_by(SERVICE, "letters"))
@replies
async def show_letters(query: LettersQuery, runtime: Annotated[Runtime, Context("runtime")]) -> LettersView:
    return await letters.read(runtime.js, query.after, query.limit)


@router.subscriber(**heard_by(SERVICE, LimitSet))
async def limit(event: LimitSet, unit: InboxUnit) -> None:
    values = Limit(event.max_running, event.max_devices, event.paused)
    await set_limit(unit, event.scope, event.name, values, event.set_at)


@router.subscriber(**heard_by(SERVICE, WorkRetryRequested))
async def retry(event: WorkRetryRequested, unit: InboxUnit) -> None:
    await monitor.retry_dead(unit, event.work_id)


@router.subscriber(**heard_by(SERVICE, WorkCancellationRequested))
async def cancel(event: WorkCancellationRequested, unit: InboxUnit) -> None:
    await monitor.cancel_work(unit, event.work_id)


@router.subscriber(**heard_by(SERVICE, DeadLetterReplayRequested))
async def replay(
    event: DeadLetterReplayRequested, unit: InboxUnit, runtime: Annotated[Runtime, Context("runtime")]
) -> None:
    await letters.replay(runtime.js, event.seq)


@router.subscriber(**heard_by(SERVICE, DeadLetterDropRequested))
async def drop(
    event: DeadLetterDropRequested, unit: InboxUnit, runtime: Annotated[Runtime, Context("runtime")]
) -> None:
    await letters.drop(runtime.js, event.seq)


async def tell_deaths(database: Database) -> None:
    """Say of each piece of work that died that it did, once, wherever its worker was."""
    while True:
        async with database.unit() as unit:
            for row in await monitor.untold_deaths(unit):
                died = WorkDied(
                    work_id=row["id"],
                    queue=row["queue"],
                    kind=row["kind"],
                    dedup_key=row["dedup_key"],
                    problem=Problem.model_validate(row["problem"]),
                    failures=row["failures"],
                    deaths=row["deaths"],
                )
                unit.emit(died, about=row["id"])
        await asyncio.sleep(_TELL_SECONDS)


def _queue(name: Queue, counts: Mapping[str, Any], row: RowMapping | None) -> QueueView:
    known = {key: counts[key] for key in QueueView.model_fields if key in counts}
    limits = _limit(row)
    del limits["max_devices"]
    return QueueView(name=name.value, limit=limits.pop("max_running"), **known, **limits)


def _limit(row: RowMapping | None) -> dict[str, Any]:
    if row is None:
        return {"max_running": None, "max_devices": None, "paused": False, "changed_at": None}
    return {key: row[key] for key in ("max_running", "max_devices", "paused", "changed_at")}


def _work(row: RowMapping) -> WorkView:
    values = {key: row[key] for key in WorkView.model_fields if key in row}
    values["placement"] = None if row["placement"] is None else Placement.model_validate(row["placement"])
    return WorkView.model_validate(values | {"work_id": row["id"]})


def _worker(row: RowMapping) -> WorkerView:
    values = {key: row[key] for key in WorkerView.model_fields if key != "holds"}
    return WorkerView(**values, holds=[HeldView.model_validate(each) for each in row["holds"]])
