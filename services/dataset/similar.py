"""Wiring of vectors, search, duplicates and leaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ltp.contracts.values import Problem
from ltp.queue.work import Work
from ltp.queue.worker import Held, Worker
from ltp.service.runtime import Runtime
from ltp.store.database import Database, Unit
from services.dataset.dedup import handlers as dedup_handlers
from services.dataset.dedup.leakcheck import check_leaks, fail_check
from services.dataset.dedup.work import apply_dedup, fail_apply, fail_dedup, find_duplicates
from services.dataset.settings import DatasetSettings
from services.dataset.vectors import handlers as vector_handlers
from services.dataset.vectors.library import Library
from services.dataset.vectors.search import Search
from services.dataset.vectors.work import embed, fail_embedding

ROUTERS = (vector_handlers.router, dedup_handlers.router)

Do = Callable[[Held, Database, Library], Awaitable[None]]
GiveUp = Callable[[Unit, Work, Problem], Awaitable[None]]

# One worker a kind: Milvus Lite bears one writer, and each of these can use the whole machine.
WORK: dict[str, tuple[Do, GiveUp]] = {
    "embed": (embed, fail_embedding),
    "dedup": (find_duplicates, fail_dedup),
    "dedup-apply": (apply_dedup, fail_apply),
    "leak-check": (check_leaks, fail_check),
}


def install(runtime: Runtime, settings: DatasetSettings) -> Library:
    """Add the workers and make the library, which is returned, known to the handlers."""
    library = Library(runtime.database, settings)
    runtime.provide(library=library, search=Search(library, runtime.database))
    for kind, (do, give_up) in WORK.items():
        runtime.workers.append(_worker(runtime, library, kind, do, give_up))
    return library


def _worker(runtime: Runtime, library: Library, kind: str, do: Do, give_up: GiveUp) -> Worker:
    async def handler(held: Held) -> None:
        await do(held, runtime.database, library)

    return Worker(runtime.database, kind=kind, name=runtime.service, handler=handler, on_failed=give_up)
