"""Putting work in and taking it out: every write by a worker is guarded by its lease token, so a late writer changes nothing."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text, update

from ltp.contracts.values import Placement, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue import statements
from ltp.queue.limits import locked_allowance
from ltp.queue.policy import (
    PRIORITIES,
    SPACING_SECONDS,
    Queue,
    admitted,
    offset_seconds,
    retry_after,
)
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.together import joined
from ltp.telemetry.spans import carried

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}")
_ANY_DEATHS = 1_000_000


@dataclass(frozen=True)
class Work:
    """A piece of work held under a lease. `deaths` counts the workers that fell silent with it in hand."""

    id: UUID
    kind: str
    payload: dict[str, Any]
    token: UUID
    placement: Placement | None
    failures: int
    trace: dict[str, str]
    deaths: int = 0
    # Cancellation was asked for before this worker took it.
    cancelled: bool = False
    # From when it was due to when it was taken.
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """Work that may be claimed when the limits let it."""

    id: UUID
    queue: str
    project: str
    devices: int


@dataclass(frozen=True)
class NewWork:
    """Work to be put in. Raises INVALID_REQUEST for an unknown queue, a priority outside -100..100, or names that are none."""

    queue: Queue | str
    kind: str
    payload: dict[str, Any]
    dedup_key: str
    wants: dict[str, Any] | None = None
    priority: int = 0
    project: str = "default"
    owner: str = "default"
    run_at: datetime | None = None
    id: UUID = field(default_factory=new_id)
    trace: dict[str, str] = field(default_factory=carried)

    def __post_init__(self) -> None:
        known_queue(self.queue)
        if isinstance(self.priority, bool) or self.priority not in PRIORITIES:
            raise LtpError(
                ErrorCode.INVALID_REQUEST,
                f"Priority {self.priority} is not between {PRIORITIES[0]} and {PRIORITIES[-1]}.",
                "Higher goes first; a point is worth an hour of waiting.",
            )
        for what, value in (("project", self.project), ("owner", self.owner)):
            if _NAME.fullmatch(value) is None:
                hint = "Letters, digits and . _ @ : - are allowed, 100 at most, a letter or digit first."
                raise LtpError(ErrorCode.INVALID_REQUEST, f"The {what} {value[:100]!r} is no name.", hint)
        if self.run_at is not None and self.run_at.tzinfo is None:
            hint = "Give an instant, in UTC for example."
            raise LtpError(ErrorCode.INVALID_REQUEST, f"{self.run_at} has no time zone.", hint)

    def columns(self) -> dict[str, Any]:
        """The values that the enqueueing statement takes, each of which it takes as an array."""
        queue = Queue(self.queue)
        return {
            "id": self.id,
            "queue": queue.value,
            "kind": self.kind,
            "payload": json.dumps(self.payload),
            "dedup_key": self.dedup_key,
            "run_at": self.run_at,
            "head_start": timedelta(seconds=offset_seconds(queue, self.priority)),
            "spacing": timedelta(seconds=SPACING_SECONDS[queue]),
            "priority": self.priority,
            "project": self.project,
            "owner": self.owner,
            "wants": None if self.wants is None else json.dumps(self.wants),
            "trace": json.dumps(self.trace),
        }


def enqueue(
    unit: Unit,
    queue: Queue | str,
    kind: str,
    payload: dict[str, Any],
    *,
    dedup_key: str,
    wants: dict[str, Any] | None = None,
    priority: int = 0,
    project: str = "default",
    owner: str = "default",
    run_at: datetime | None = None,
    trace: dict[str, str] | None = None,
) -> None:
    """Add work when the unit commits, unless its key was enqueued before; not to be done before `run_at`.

    It belongs to `trace`, or to the one in which it is put in.
    Raises INVALID_REQUEST as `NewWork` does.
    """
    new = NewWork(queue, kind, payload, dedup_key, wants, priority, project, owner, run_at, trace=trace or carried())
    unit.add(statements.ENQUEUE, new.columns())


async def enqueue_many(unit: Unit, news: Sequence[NewWork]) -> list[UUID | None]:
    """Add work, if any, in one statement of the caller's transaction; None in the place of what was enqueued before."""
    if not news:
        return []
    ((statement, values),) = joined([{statements.ENQUEUE: [new.columns() for new in news]}])
    ids = {row.id for row in (await unit.execute(text(statement), values)).all()}
    return [new.id if new.id in ids else None for new in news]


async def claim(
    unit: Unit, kinds: Sequence[str], worker: str, lease: timedelta, hosts: list[str] | None = None
) -> Work | None:
    """Take the first work of these kinds that is due, placed (on one of `hosts`, when given) and within its limits, or whose worker fell silent."""
    expired = {"deaths_from": 0, "deaths_below": _ANY_DEATHS}
    values = {"kinds": list(kinds), "worker": worker, "lease": lease, "count": 1, "hosts": hosts}
    for statement, extra in ((statements.EXPIRED, expired), (statements.CLAIM, {})):
        rows = (await unit.execute(text(statement), values | extra)).mappings().all()
        if rows:
            return work_of(rows[0])
    found = await claim_limited(unit, kinds, worker, lease, 1, hosts)
    return found[0] if found else None


async def claim_limited(
    unit: Unit, kinds: Sequence[str], worker: str, lease: timedelta, count: int, hosts: list[str] | None = None
) -> list[Work]:
    """Take up to `count` pieces where limits are set, one claimer at a time; none where no limit is set at all."""
    allowance = await locked_allowance(unit)
    if allowance is None:
        return []
    values: dict[str, Any] = {"kinds": list(kinds), "count": count, "hosts": hosts}
    rows = (await unit.execute(text(statements.CANDIDATES), values)).mappings().all()
    # What has its devices was admitted when they were given.
    placed = [row["id"] for row in rows if row["placed"]][:count]
    waiting = [Candidate(row["id"], row["queue"], row["project"], 0) for row in rows if not row["placed"]]
    chosen = placed + [candidate.id for candidate in admitted(waiting, allowance, count - len(placed))]
    if not chosen:
        return []
    taking = {"ids": chosen, "worker": worker, "lease": lease}
    return in_order((await unit.execute(text(statements.CLAIM_THESE), taking)).mappings().all())


async def extend(unit: Unit, held: Work, lease: timedelta) -> bool:
    """Renew the lease. Returns whether cancellation was asked for; raises STALE_LEASE when the lease is gone."""
    values = {"ids": [held.id], "tokens": [held.token], "lease": lease}
    row = (await unit.execute(text(statements.HEARTBEAT), values)).one_or_none()
    if row is None:
        raise _stale(held)
    return bool(row.cancel_requested)


async def finish(unit: Unit, held: Work, *, cancelled: bool = False) -> None:
    """Mark the work as over, in the same transaction as its effects. Raises STALE_LEASE, undoing both."""
    await _settle(unit, held, "cancelled" if cancelled else "done")


async def end_cancelled(unit: Unit, held: Work, problem: Problem) -> None:
    """Mark work as cancelled before it began, with who asked for it."""
    await _settle(unit, held, "cancelled", problem)


async def fail(unit: Unit, held: Work, problem: Problem, *, retry: bool) -> bool:
    """Note a failure. True when the work will be tried again, in its old turn; False when it is over."""
    delay = retry_after(held.failures + 1, secrets.randbelow(1000) / 1000) if retry else None
    await _settle(unit, held, "failed" if delay is None else "queued", problem, delay)
    return delay is not None


async def request_cancel(unit: Unit, dedup_key: str, *, only_unstarted: bool = False) -> bool:
    """Ask that work end. True when it had not started and is cancelled at once; running work hears at its next heartbeat.

    With `only_unstarted`, work that runs is left alone.
    """
    unstarted = update(work).where(work.c.dedup_key == dedup_key, work.c.state == "queued")
    if await unit.change(unstarted.values(state="cancelled", cancel_requested=True, ended_at=now())):
        return True
    if only_unstarted:
        return False
    running = update(work).where(work.c.dedup_key == dedup_key, work.c.state == "running")
    await unit.execute(running.values(cancel_requested=True))
    return False


def known_queue(name: Queue | str) -> Queue:
    """The queue of this name. Raises INVALID_REQUEST with the names there are."""
    try:
        return Queue(name)
    except ValueError:
        names = ", ".join(Queue)
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"There is no queue {str(name)[:100]!r}.", f"The queues are {names}."
        ) from None


def work_of(row: Mapping[Any, Any]) -> Work:
    """Work from a row that a claim returned."""
    payload, trace, place = (decoded(row[column]) for column in ("payload", "trace", "placement"))
    placement = None if place is None else Placement.model_validate(place)
    end = row["deaths"], row["cancel_requested"], row["waited"]
    return Work(row["id"], row["kind"], payload, row["lease_token"], placement, row["failures"], trace, *end)


def decoded(value: Any) -> Any:
    """A column of JSON objects: SQLAlchemy's connections decode it, a worker's own line hands out the text."""
    return json.loads(value) if isinstance(value, str) else value


def in_order(rows: Sequence[Mapping[Any, Any]]) -> list[Work]:
    """Work from claimed rows, in its turn: an UPDATE returns its rows in no order."""
    return [work_of(row) for row in sorted(rows, key=lambda row: (row["sort_at"], row["id"]))]


async def _settle(
    unit: Unit, held: Work, state: str, problem: Problem | None = None, delay: timedelta | None = None
) -> None:
    values = {
        "id": held.id,
        "token": held.token,
        "state": state,
        "failed": 0 if problem is None else 1,
        "problem": None if problem is None else problem.model_dump_json(),
        "delay": delay,
    }
    if (await unit.execute(text(statements.SETTLE), values)).one_or_none() is None:
        raise _stale(held)


def _stale(held: Work) -> LtpError:
    return LtpError(
        ErrorCode.STALE_LEASE,
        f"Work {held.id} is no longer held by this worker.",
        "Another worker took it over after a silence; this one's late result was discarded.",
    )
