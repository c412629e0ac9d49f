"""`kill -9` of the evaluator at moments drawn from a seed: each sample is scored once, and nothing stored is asked again."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from ltp.contracts.evaluation import DatasetUnderTest
from services.evaluator import store
from services.evaluator.evaluation import Evaluator
from tests.conftest import until
from tests.service.evaluator.stub import Stub
from tests.service.evaluator.test_runs import ROWS, database, dataset, evaluator, opened, result, said, stub, work

__all__ = ["database", "dataset", "evaluator", "stub"]
SCRIPT = Path(__file__).parent / "run_to_kill.py"


async def stored(evaluator: Evaluator) -> set[str]:
    async with evaluator.database.engine.connect() as connection:
        return set((await connection.execute(select(store.samples.c.prompt))).scalars())


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
async def test_what_is_stored_is_not_asked_again_however_it_died(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub, database_url: str, data_dir: Path, seed: int
) -> None:
    dice = random.Random(seed)
    stub.delay = 0.3
    evaluation_id = await opened(evaluator, dataset, stub, reuse=False)
    for _ in range(2):
        # By answers given, not by time: it dies between asking, answering and storing.
        moment = len(stub.answered_at) + dice.randrange(1, 12)
        process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), database_url, str(data_dir))
        await until(lambda moment=moment: len(stub.answered_at) >= moment, 60)
        await asyncio.sleep(dice.uniform(0, 0.3))
        process.kill()
        assert await process.wait() == -signal.SIGKILL, "it was over before it was killed"
    safe, asked = await stored(evaluator), dict(stub.asked)
    assert len(safe) < ROWS
    await evaluator.evaluate(await work(evaluator))
    found = await result(evaluator, evaluation_id)
    assert found.counts.right == ROWS and await stored(evaluator) == set(stub.asked)
    assert all(stub.asked[prompt] == asked[prompt] for prompt in safe)
    # Only what was under way at a death is asked twice.
    assert sum(stub.asked.values()) <= ROWS + 2 * 8 * 2
    assert await said(evaluator.database) == ["ltp.evaluation.v2.completed"]
