"""An evaluator that takes one evaluation and can be killed anywhere: `python run_to_kill.py DATABASE_URL DATA_DIR`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from ltp.queue.work import claim
from ltp.queue.worker import Held
from ltp.store.database import Database
from services.evaluator.evaluation import Evaluator
from services.evaluator.settings import EvaluatorSettings


async def main(url: str, data_dir: str) -> None:
    database = Database.connect(url, "evaluator")
    async with database.unit() as unit:
        # Its lease is over at once, as that of a dead worker.
        found = await claim(unit, ["evaluate"], "to be killed", timedelta(0))
    assert found is not None
    await Evaluator(database, EvaluatorSettings(data_dir=Path(data_dir))).evaluate(Held(found))


asyncio.run(main(*sys.argv[1:]))
