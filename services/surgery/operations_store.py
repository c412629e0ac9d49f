"""The table of operations and every statement that runs on it. Each change is guarded by the states it may come from."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import Column, Integer, RowMapping, String, Table, Uuid, and_, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.operation import OperationQuery, OperationRequested
from ltp.core.lifecycle import OPERATION, OperationState
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order

SCHEMA = "surgery"

operations = Table(
    "operations",
    metadata,
    Column("operation_id", Uuid, primary_key=True),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("spec", JSONB, nullable=False),
    # What a user asked of a running operation: "pause" or "cancel".
    Column("wish", String),
    # How often it was put into the queue, so that each time has a key of its own.
    Column("round", Integer, nullable=False, server_default=text("1")),
    Column("progress", JSONB),
    Column("result", JSONB),
    Column("problem", JSONB),
    Column("decision", String),
    Column("decision_note", String),
    Column("requested_at", TIME, nullable=False, server_default=func.now()),
    Column("started_at", TIME),
    Column("ended_at", TIME),
    schema=SCHEMA,
)

_SORTED_BY = {name: operations.c[name] for name in ("name", "kind", "state", "started_at", "ended_at")}
_OVER = [state.value for state in OperationState if OPERATION.is_over(state)]


async def open_operation(unit: Unit, event: OperationRequested) -> bool:
    """Note a request; False when another operation that is not over writes the same name."""
    await unit.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"operation {event.spec.name}"})
    taken = select(operations.c.operation_id).where(
        operations.c.name == event.spec.name,
        operations.c.state.not_in(_OVER),
        operations.c.operation_id != event.operation_id,
    )
    free = (await unit.execute(taken)).first() is None
    values = {
        "operation_id": event.operation_id,
        "kind": event.spec.kind,
        "name": event.spec.name,
        "state": OperationState.QUEUED,
        "spec": event.spec.model_dump(mode="json"),
    }
    await unit.execute(insert(operations).values(**values).on_conflict_do_nothing())
    return free


async def change(unit: Unit, operation_id: UUID, target: OperationState, **values: Any) -> bool:
    """Move an operation on, if its state allows that."""
    if OPERATION.is_over(target):
        values |= {"ended_at": now(), "progress": None}
    sources = [state.value for state in OPERATION.sources(target)]
    statement = update(operations).where(operations.c.operation_id == operation_id, operations.c.state.in_(sources))
    return await unit.change(statement.values(state=target, **values)) == 1


async def begin(unit: Unit, operation_id: UUID) -> bool:
    """The work is in hand; False when the operation is over or paused meanwhile."""
    started = {"started_at": func.coalesce(operations.c.started_at, now())}
    return await change(unit, operation_id, OperationState.RUNNING, **started)


async def wish(unit: Unit, operation_id: UUID, what: str) -> None:
    """Note what a user asks of an operation that runs or waits. A cancellation outweighs a pause."""
    statement = update(operations).where(
        operations.c.operation_id == operation_id,
        operations.c.state.not_in(_OVER),
        operations.c.wish.is_distinct_from("cancel"),
    )
    await unit.execute(statement.values(wish=what))


async def tell_progress(unit: Unit, operation_id: UUID, progress: dict[str, Any]) -> str | None:
    """Note how far it is; returns what the user wishes."""
    mine = update(operations).where(operations.c.operation_id == operation_id)
    found = await unit.execute(mine.values(progress=progress).returning(operations.c.wish))
    return cast("str | None", found.scalar_one_or_none())


async def again(unit: Unit, operation_id: UUID) -> RowMapping | None:
    """Put a paused operation back to waiting; its row, or None when it is not paused."""
    statement = update(operations).where(
        operations.c.operation_id == operation_id, operations.c.state == OperationState.PAUSED
    )
    values = {"state": OperationState.QUEUED, "round": operations.c.round + 1, "wish": None}
    return (await unit.execute(statement.values(**values).returning(operations))).mappings().one_or_none()


async def decide(unit: Unit, operation_id: UUID, decision: str, note: str) -> RowMapping | None:
    """Note what a user thinks of a result; a later word outweighs an earlier one."""
    statement = update(operations).where(
        operations.c.operation_id == operation_id, operations.c.state == OperationState.SUCCEEDED
    )
    values = {"decision": decision, "decision_note": note}
    return (await unit.execute(statement.values(**values).returning(operations))).mappings().one_or_none()


async def evaluated_by(unit: Unit, evaluation_id: UUID) -> RowMapping | None:
    """The operation that asked for an evaluation, locked: several of its evaluations may end at once."""
    asked = {"evaluate": {"evaluations": [{"evaluation_id": str(evaluation_id)}]}}
    statement = select(operations).where(operations.c.spec.contains(asked)).with_for_update()
    return (await unit.execute(statement)).mappings().first()


async def note_accuracy(
    unit: Unit, operation_id: UUID, evaluation_id: str, dataset: str, accuracy: float | None
) -> dict[str, Any]:
    """Keep an accuracy beside the result; all that are known, by evaluation."""
    result = dict((await row(unit, operation_id) or {}).get("result") or {})
    known = dict(result.get("accuracies") or {}) | {evaluation_id: {"dataset": dataset, "accuracy": accuracy}}
    mine = update(operations).where(operations.c.operation_id == operation_id)
    await unit.execute(mine.values(result=result | {"accuracies": known}))
    return known


async def row(unit: Unit, operation_id: UUID) -> RowMapping | None:
    """One operation, inside a transaction."""
    statement = select(operations).where(operations.c.operation_id == operation_id)
    return (await unit.execute(statement)).mappings().one_or_none()


async def find(engine: AsyncEngine, query: OperationQuery) -> list[RowMapping]:
    """A page of operations, by id or state."""
    wanted = [operations.c.operation_id == query.operation_id] if query.operation_id else []
    wanted += [operations.c.state == query.state] if query.state else []
    mine = select(operations).where(and_(True, *wanted))
    statement = in_order(mine, query, operations.c.operation_id, _SORTED_BY)
    async with engine.connect() as connection:
        return list((await connection.execute(statement)).mappings())


async def writing(engine: AsyncEngine, name: str) -> UUID | None:
    """The operation that is to write a name and is not over."""
    statement = select(operations.c.operation_id).where(operations.c.name == name, operations.c.state.not_in(_OVER))
    async with engine.connect() as connection:
        return cast("UUID | None", await connection.scalar(statement.limit(1)))
