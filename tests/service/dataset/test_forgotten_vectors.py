"""A deleted version takes its vectors along: from every index, from the cache, and from the disk; others keep theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from services.dataset import store as datasets
from services.dataset.vectors import store
from services.dataset.vectors.library import matrix_key
from services.dataset.vectors.removal import forget_vectors
from tests.service.dataset.conftest import Bench


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i} about wires", "response": f"reply {i}"} for i in range(first, last)]


async def cached(bench: Bench) -> int:
    async with bench.database.engine.connect() as connection:
        count = (await connection.execute(select(func.count()).select_from(store.vector_cache))).scalar_one()
    return int(count)


async def deleted(bench: Bench, name: str, version: str) -> None:
    async with bench.database.unit() as unit:
        await datasets.mark_deleted(unit, "default", name, version)
    await forget_vectors(bench.database, bench.library, version)


async def test_vectors_go_with_the_last_name_that_has_the_version(bench: Bench) -> None:
    one = await bench.add("one", rows(0, 10))
    same = await bench.add("same", rows(0, 10))
    other = await bench.add("other", rows(8, 14))
    assert one == same != other
    made, others = await bench.embed("one", one), await bench.embed("other", other)
    key = matrix_key(one, made["part"], made["model_key"])
    pgvector = bench.library.index("pgvector")
    await pgvector.rebuild(key, bench.library.scan.vectors(key))
    assert await cached(bench) == 14

    await deleted(bench, "one", one)
    assert bench.library.scan.has(key), "another name has the very same rows"

    await deleted(bench, "same", same)
    await forget_vectors(bench.database, bench.library, same)  # killed after it was done, it is done again
    assert await cached(bench) == 6, "texts of the other version stay"
    assert not bench.library.scan.has(key) and await pgvector.rows(key) is None
    assert not (bench.library.folder / "rows" / one).exists()
    assert await store.latest(bench.database.engine, one, made["part"], made["model"]) is None
    assert bench.library.scan.has(matrix_key(other, others["part"], others["model_key"]))
