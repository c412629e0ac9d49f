"""The dataset service's workers alone, reading in small blocks: `python work_to_kill.py DATABASE_URL DATA_DIR EMBEDDING_URL`.

It prints `ready`, and works until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from ltp.queue.worker import Worker
from ltp.store.database import Database
from services.dataset import apart, similar
from services.dataset.settings import DatasetSettings
from services.dataset.vectors.library import Library
from services.dataset.work import Freezer, reject


async def main(database_url: str, data: str, endpoint: str) -> None:
    apart._context.set_forkserver_preload(["tests.service.dataset.small_blocks"])
    settings = DatasetSettings(
        data_dir=Path(data), database_url=database_url, embedding_url=endpoint, milvus_uri=None, vector_index="scan"
    )
    database = Database.connect(database_url, "dataset")
    library = Library(database, settings)
    freezer = Freezer(database, settings, library.versions_dir, lambda: None)
    workers = [Worker(database, kind="freeze", name="dataset", handler=freezer, on_failed=reject)]
    for kind, (do, give_up) in similar.WORK.items():
        workers.append(
            Worker(database, kind=kind, name="dataset", handler=_bound(do, database, library), on_failed=give_up)
        )
    for worker in workers:
        worker.lease, worker.poll_seconds = timedelta(seconds=1), 0.05
        # Nothing is wrong with work whose worker is killed on purpose.
        worker.max_deaths = None
    await apart.warm()
    print("ready", flush=True)  # noqa: T201 - the test waits for it
    await asyncio.gather(*(worker.run() for worker in workers))


def _bound(do: similar.Do, database: Database, library: Library):  # noqa: ANN202 - a worker's handler
    return lambda held: do(held, database, library)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
