"""Values of fields marked as personal stand in no event, log or profile, whether the work succeeds or fails."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from ltp.contracts.dataset import DatasetProfile, DatasetRequested, ProfileAsked, ReadOptions
from ltp.contracts.dedup import DedupAsk, DedupRequested
from ltp.core.errors import LtpError
from ltp.queue.work import fail
from ltp.queue.worker import Held
from ltp.store.clock import new_id
from services.dataset.dedup import handlers as dedup_handlers
from services.dataset.dedup.work import find_duplicates
from services.dataset.handlers import queue_source
from services.dataset.masks import MaskProcess
from services.dataset.questions.training import show_profile
from services.dataset.work import Freezer, reject
from tests.service.dataset.conftest import Bench

SECRET = "ada.lovelace@example.org"


def rows(count: int = 6) -> list[dict[str, Any]]:
    said = [
        {"prompt": f"Say {i % 3}", "response": f"It is {i}", "email": SECRET, "tenant": f"t{i % 2}"}
        for i in range(count)
    ]
    return [{**row, "email": f"{i}.{SECRET}"} for i, row in enumerate(said)]


async def add(bench: Bench, name: str, made: list[dict[str, Any]]) -> UUID:
    folder = bench.library.settings.root() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in made))
    asked = DatasetRequested(
        dataset_id=new_id(), name=name, source=str(source), holdout=0.0, options=ReadOptions(personal=["email"])
    )
    async with bench.database.unit() as unit:
        await queue_source(asked, unit)
    freezer = Freezer(bench.database, bench.library.settings, bench.library.versions_dir, lambda: None)

    async def read(held: Held) -> None:
        try:
            await freezer(held)
        except LtpError as error:
            from ltp.contracts.values import Problem

            async with bench.database.unit() as unit:
                await fail(unit, held.work, Problem.of(error), retry=False)
                await reject(unit, held.work, Problem.of(error))

    await bench.take("freeze", read)
    return asked.dataset_id


async def said_aloud(bench: Bench) -> str:
    """Every event that the service would publish."""
    async with bench.database.engine.connect() as connection:
        found = await connection.execute(text("SELECT subject, payload FROM dataset.outbox"))
        return "\n".join(f"{subject} {bytes(payload).decode()}" for subject, payload in found)


async def test_marked_values_stay_in_the_files(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    await add(bench, "talks", rows())
    asked = ProfileAsked(name="talks")
    reply = await show_profile(asked, bench.database, bench.library.settings, MaskProcess("python"))
    assert reply.problem is None
    profile = DatasetProfile.model_validate(reply.value)
    email = profile.splits["train"]["fields"]["email"]
    assert email["personal"] and "top" not in email
    assert "top" in profile.splits["train"]["fields"]["tenant"]
    version = profile.version
    dedup_id = new_id()
    async with bench.database.unit() as unit:
        ask = DedupAsk(method="near", part="prompt")
        await dedup_handlers.queue_dedup(
            DedupRequested(dedup_id=dedup_id, name="talks", version=version, ask=ask, against=[]), unit
        )
    await bench.take("dedup", lambda held: find_duplicates(held, bench.database, bench.library))
    # Refused rows: their problem is told in an event, and names row and reason.
    await add(bench, "broken", [*rows(), {"prompt": "Say", "response": "", "email": SECRET}])
    await add(bench, "twice", [{**row, "id": row["tenant"]} for row in rows()])
    events = await said_aloud(bench)
    for subject in ("ltp.dataset.v1.frozen", "ltp.dedup.v1.completed", "ltp.dataset.v1.rejected"):
        assert subject in events
    assert "Row 7" in events and "repeats the id" in events
    shown = capfd.readouterr()
    assert SECRET not in events + reply.model_dump_json() + shown.out + shown.err
