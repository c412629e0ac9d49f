"""The GPU of an operation, on a real Postgres: leased before it starts, and free again however it ends.

The host's GPU is a word of the host; what computes is torch's processor, by the same code.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

pytest.importorskip("torch")

from ltp.contracts.host import HostSeen
from ltp.contracts.operation import (
    OperationCancellationRequested,
    OperationPauseRequested,
    OperationRequested,
    OperationResumeRequested,
    OperationSpec,
)
from ltp.contracts.values import Device
from ltp.queue.worker import Worker
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.scheduler import hosts, placement
from services.surgery import operations, operations_store
from services.surgery.settings import SurgerySettings
from tests.conftest import until
from tests.service.surgery.merge_models import linear, write

HOUR, INDEX = timedelta(hours=1), 3


class Table:
    """Surgery and the scheduler over one database, as their services would be."""

    def __init__(self, surgery: Database, scheduler: Database, settings: SurgerySettings, models: list[Path]) -> None:
        self.surgery, self.scheduler, self.settings, self.models = surgery, scheduler, settings, models
        self.shown: list[list[int]] = []

    async def ask(self, device: str, name: str = "out") -> UUID:
        spec = OperationSpec(name=name, recipe=linear(*self.models), proof=False, device=device)  # pyright: ignore[reportArgumentType]
        event = OperationRequested(operation_id=new_id(), spec=spec)
        await self.hear(operations.queue_operation, event)
        return event.operation_id

    async def hear(self, handler: Any, event: Any, *more: Any) -> None:
        async with self.surgery.unit(cause=new_id()) as unit:
            await handler(event, unit, *more)

    async def place(self) -> None:
        async with self.scheduler.unit() as unit:
            await placement.place_once(unit, HOUR)

    async def held(self) -> list[UUID]:
        """Leases that are out, after the scheduler's next look."""
        await self.place()
        query = select(hosts.leases.c.work_id).where(hosts.leases.c.released_at.is_(None))
        async with self.scheduler.engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def row(self, operation_id: UUID) -> Any:
        async with self.surgery.unit() as unit:
            return await operations_store.row(unit, operation_id)

    async def state(self, operation_id: UUID) -> str:
        return str((await self.row(operation_id))["state"])

    async def ends(self, operation_id: UUID, *states: str) -> Any:
        async def ended() -> bool:
            return await self.state(operation_id) in states

        await until(ended, 60)
        return await self.row(operation_id)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        worker = Worker(
            self.surgery, "operation", "w", lambda held: operations.carry_out(held, self.surgery, self.settings),
            on_failed=operations.tell_failure, poll_seconds=0.05,
        )  # fmt: skip
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def table(database_url: str, tmp_path: Path) -> AsyncIterator[Table]:
    surgery, scheduler = (Database.connect(database_url, name) for name in ("surgery", "scheduler"))
    settings = SurgerySettings(data_dir=tmp_path / "data", surgery_python=sys.executable)
    gpu = Device(index=INDEX, kind="gpu", model="NVIDIA H200", memory_bytes=140 << 30)
    seen = HostSeen(host_id="a", name="a", backend="local", devices=[gpu], memory_bytes=1 << 40, cpus=8)
    async with scheduler.unit(cause=new_id()) as unit:
        await hosts.see_host(unit, seen)
    yield Table(surgery, scheduler, settings, [write(tmp_path / f"m{seed}", seed) for seed in range(2)])
    await surgery.close()
    await scheduler.close()


@pytest.fixture
def computed_here(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the leased GPU the process is shown, but computes on the processor."""
    order, run = operations._order, operations.run_process

    async def shown(python: str, spec: Any, tell: Any, gpus: Any) -> Any:
        table.shown.append(list(gpus))
        return await run(python, spec, tell, gpus)

    monkeypatch.setattr(operations, "_order", lambda *given: order(*given) | {"device": "cpu:0"})
    monkeypatch.setattr(operations, "run_process", shown)


@pytest.mark.usefixtures("computed_here")
async def test_a_merge_holds_one_gpu_until_it_has_succeeded(table: Table) -> None:
    operation_id = await table.ask("gpu")
    async with table.working():
        (_,) = await table.held()
        row = await table.ends(operation_id, "succeeded", "failed")
    assert row["state"] == "succeeded", row["problem"]
    assert table.shown == [[INDEX]] and await table.held() == []
    # One for the processor neither waits for a GPU nor sees one.
    second = await table.ask("cpu", "other")
    async with table.working():
        assert (await table.ends(second, "succeeded", "failed"))["state"] == "succeeded"
    assert table.shown[1] == [] and await table.held() == []


async def test_a_merge_that_fails_gives_its_gpu_back(table: Table) -> None:
    operation_id = await table.ask("gpu")
    for path in table.models[1].iterdir():
        path.unlink()
    async with table.working():
        assert len(await table.held()) == 1
        row = await table.ends(operation_id, "succeeded", "failed")
    assert row["state"] == "failed" and row["problem"]["hint"]
    assert await table.held() == []


@pytest.mark.usefixtures("computed_here")
async def test_a_cancelled_merge_gives_its_gpu_back_and_the_next_one_has_it(table: Table) -> None:
    first, second = await table.ask("gpu", "first"), await table.ask("gpu", "second")
    (holder,) = await table.held()
    # It holds the GPU and no worker has taken it up.
    await table.hear(operations.cancel, OperationCancellationRequested(operation_id=first), table.settings)
    assert await table.state(first) == "cancelled"
    assert len(await table.held()) == 1 and await table.held() != [holder]
    async with table.working():
        await table.ends(second, "running")
        await table.hear(operations.cancel, OperationCancellationRequested(operation_id=second), table.settings)
        row = await table.ends(second, "cancelled", "succeeded", "failed")
    assert row["state"] == "cancelled", row["problem"]
    assert await table.held() == [] and not list((table.settings.root() / "models").glob("second*"))


@pytest.mark.usefixtures("computed_here")
async def test_a_pause_frees_the_gpu_and_going_on_takes_one_again(table: Table) -> None:
    operation_id = await table.ask("gpu")
    await table.place()
    async with table.working():
        await table.ends(operation_id, "running")
        await table.hear(operations.pause, OperationPauseRequested(operation_id=operation_id))
        assert (await table.ends(operation_id, "paused", "succeeded", "failed"))["state"] == "paused"
        assert await table.held() == []
        await table.hear(operations.resume, OperationResumeRequested(operation_id=operation_id))
        assert len(await table.held()) == 1
        assert (await table.ends(operation_id, "succeeded", "failed"))["state"] == "succeeded"
    assert await table.held() == []


@pytest.mark.usefixtures("computed_here")
async def test_a_service_that_stops_and_comes_back_keeps_the_gpu_until_the_merge_is_done(table: Table) -> None:
    operation_id = await table.ask("gpu")
    (lease,) = await table.held()
    async with table.working():
        await table.ends(operation_id, "running")
    assert await table.held() in ([lease], [])
    async with table.working():
        await table.place()
        assert (await table.ends(operation_id, "succeeded", "failed"))["state"] == "succeeded"
    assert await table.held() == []
