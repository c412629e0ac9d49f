"""Puts many pieces of work in by one statement: what `enqueue` does for one, where a thousand come at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import propagate
from sqlalchemy.dialects.postgresql import insert

from ltp.queue.policy import Queue, sort_at
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL


@dataclass(frozen=True)
class New:
    """Work to be put in; it needs no devices."""

    queue: Queue
    kind: str
    payload: dict[str, Any]
    dedup_key: str


async def enqueue_many(unit: Unit, pieces: Sequence[New]) -> None:
    """Add work in the caller's transaction; what has a key that is known stays as it is."""
    if not pieces:
        return
    trace: dict[str, str] = {}
    propagate.inject(trace)
    at = now()
    rows = [
        {
            "id": new_id(),
            "queue": piece.queue,
            "kind": piece.kind,
            "payload": piece.payload,
            "dedup_key": piece.dedup_key,
            "state": "queued",
            "run_at": at,
            "sort_at": sort_at(piece.queue, at),
            "trace": trace,
        }
        for piece in pieces
    ]
    await unit.execute(insert(work).values(rows).on_conflict_do_nothing(index_elements=["dedup_key"]))
    await unit.notify(WORK_CHANNEL)
