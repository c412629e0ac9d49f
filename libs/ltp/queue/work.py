"""Putting work in and taking it out: every write by a worker is guarded by its lease token, so a late writer changes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from opentelemetry import propagate
from sqlalchemy import and_, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from ltp.contracts.values import Placement, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue, retry_after, sort_at
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL


@dataclass(frozen=True)
class Work:
    """A piece of work held under a lease."""

    id: UUID
    kind: str
    payload: dict[str, Any]
    token: UUID
    placement: Placement | None
    failures: int
    trace: dict[str, str]


async def enqueue(
    unit: Unit,
    queue: Queue,
    kind: str,
    payload: dict[str, Any],
    *,
    dedup_key: str,
    wants: dict[str, Any] | None = None,
    run_at: datetime | None = None,
) -> UUID | None:
    """Add work in the caller's transaction, due at once or at `run_at`. None when work with this key was enqueued before."""
    trace: dict[str, str] = {}
    propagate.inject(trace)
    at = run_at or now()
    statement = (
        insert(work)
        .values(
            id=new_id(),
            queue=queue,
            kind=kind,
            payload=payload,
            dedup_key=dedup_key,
            state="queued",
            run_at=at,
            sort_at=sort_at(queue, at),
            wants=null() if wants is None else wants,
            trace=trace,
        )
        .on_conflict_do_nothing(index_elements=["dedup_key"])
        .returning(work.c.id)
    )
    work_id = (await unit.execute(statement)).scalar_one_or_none()
    await unit.notify(WORK_CHANNEL)
    return work_id


async def claim(unit: Unit, kinds: Sequence[str], worker: str, lease: timedelta) -> Work | None:
    """Take the first work of these kinds that is due and placed, or whose worker fell silent."""
    at = now()
    due = and_(work.c.state == "queued", work.c.run_at <= at)
    abandoned = and_(work.c.state == "running", work.c.lease_until < at)
    ready = or_(work.c.wants.is_(None), work.c.placement.is_not(None))
    chosen = (
        select(work.c.id)
        .where(work.c.kind.in_(kinds), or_(due, abandoned), ready)
        .order_by(work.c.sort_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(work)
        .where(work.c.id == chosen)
        .values(
            state="running",
            claims=work.c.claims + 1,
            worker=worker,
            lease_token=func.gen_random_uuid(),
            lease_until=at + lease,
            started_at=func.coalesce(work.c.started_at, at),
        )
        .returning(work)
    )
    row = (await unit.execute(statement)).mappings().one_or_none()
    if row is None:
        return None
    placement = None if row["placement"] is None else Placement.model_validate(row["placement"])
    return Work(row["id"], row["kind"], row["payload"], row["lease_token"], placement, row["failures"], row["trace"])


async def extend(unit: Unit, held: Work, lease: timedelta) -> bool:
    """Renew the lease. Returns whether cancellation was asked for; raises STALE_LEASE when the lease is gone."""
    statement = (
        update(work)
        .where(work.c.id == held.id, work.c.lease_token == held.token, work.c.state == "running")
        .values(lease_until=now() + lease)
        .returning(work.c.cancel_requested)
    )
    cancelled = (await unit.execute(statement)).scalar_one_or_none()
    if cancelled is None:
        raise _stale(held)
    return bool(cancelled)


async def finish(unit: Unit, held: Work, *, cancelled: bool = False) -> None:
    """Mark the work as over, in the same transaction as its effects. Raises STALE_LEASE, undoing both."""
    await _settle(unit, held, state="cancelled" if cancelled else "done", ended_at=now())


async def fail(unit: Unit, held: Work, problem: Problem, *, retry: bool) -> bool:
    """Note a failure. True when the work will be tried again; False when it is over."""
    failures = held.failures + 1
    delay = retry_after(failures, secrets.randbelow(1000) / 1000) if retry else None
    evidence = problem.model_dump()
    if delay is None:
        await _settle(unit, held, state="failed", failures=failures, problem=evidence, ended_at=now())
        return False
    run_at = now() + delay
    await _settle(unit, held, state="queued", failures=failures, problem=evidence, run_at=run_at, sort_at=run_at)
    return True


async def request_cancel(unit: Unit, dedup_key: str, *, only_unstarted: bool = False) -> bool:
    """Ask that work end. True when it had not started and is cancelled at once; running work hears at its next heartbeat.

    With `only_unstarted`, work that runs is left alone.
    """
    at = now()
    unstarted = update(work).where(work.c.dedup_key == dedup_key, work.c.state == "queued")
    if await unit.change(unstarted.values(state="cancelled", cancel_requested=True, ended_at=at)):
        return True
    if only_unstarted:
        return False
    running = update(work).where(work.c.dedup_key == dedup_key, work.c.state == "running")
    await unit.execute(running.values(cancel_requested=True))
    return False


async def _settle(unit: Unit, held: Work, **values: Any) -> None:
    statement = (
        update(work)
        .where(work.c.id == held.id, work.c.lease_token == held.token, work.c.state == "running")
        .values(lease_token=None, lease_until=None, **values)
    )
    if await unit.change(statement) != 1:
        raise _stale(held)
    await unit.notify(WORK_CHANNEL)


def _stale(held: Work) -> LtpError:
    return LtpError(
        ErrorCode.STALE_LEASE,
        f"Work {held.id} is no longer held by this worker.",
        "Another worker took it over after a silence; this one's late result was discarded.",
    )
