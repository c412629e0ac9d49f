"""What goes with a deleted version: its vectors in every index, its mapped rows, its word index, what checks quoted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence

from sqlalchemy import delete, func, or_, select

from ltp.store.database import Database
from services.dataset.dedup.store import leak_checks
from services.dataset.dedup.texts import distinct, text_key
from services.dataset.store import datasets
from services.dataset.vectors.library import Library, matrix_key
from services.dataset.vectors.rows import RowsFile, open_mapped
from services.dataset.vectors.store import embeddings, vector_cache

_KEYS_A_STATEMENT = 5000


async def forget_vectors(database: Database, library: Library, version: str) -> None:
    """Remove what was derived of a version that no name has any longer; done twice, it changes nothing.

    Vectors leave the cache unless a text of another embedded version has them. Raises LtpError SERVICE_UNAVAILABLE
    when an index cannot be reached: the work is done again later.
    """
    if await _is_alive(database, version):
        return
    made = await _made_of(database, version)
    for part, model_key in made:
        for index in library.indexes.values():
            await index.drop(matrix_key(version, part, model_key))
        await _forget_cached(database, library, version, part, model_key)
    library.forget_version(version)
    await asyncio.to_thread(shutil.rmtree, library.folder / "rows" / version, ignore_errors=True)
    quoted = or_(leak_checks.c.version == version, leak_checks.c.against.contains([{"version": version}]))
    async with database.unit() as unit:
        await unit.execute(delete(embeddings).where(embeddings.c.version == version))
        await unit.execute(delete(leak_checks).where(quoted))


async def _is_alive(database: Database, version: str) -> bool:
    wanted = select(func.count()).where(datasets.c.version == version, datasets.c.deleted_at.is_(None))
    async with database.engine.connect() as connection:
        return bool((await connection.execute(wanted)).scalar_one())


async def _made_of(database: Database, version: str) -> list[tuple[str, str]]:
    wanted = select(embeddings.c.part, embeddings.c.model_key).distinct()
    wanted = wanted.where(embeddings.c.version == version, embeddings.c.model_key.is_not(None))
    async with database.engine.connect() as connection:
        return [(part, key) for part, key in await connection.execute(wanted)]


async def _forget_cached(database: Database, library: Library, version: str, part: str, model_key: str) -> None:
    mine = await asyncio.to_thread(_keys, library, version, part)
    others = select(embeddings.c.version, embeddings.c.part).distinct()
    others = others.where(embeddings.c.model_key == model_key, embeddings.c.version != version)
    async with database.engine.connect() as connection:
        kept = [(v, p) for v, p in await connection.execute(others)]
    for other, its_part in kept:
        mine -= await asyncio.to_thread(_keys, library, other, its_part)
    keys: Sequence[bytes] = sorted(mine)
    for start in range(0, len(keys), _KEYS_A_STATEMENT):
        gone = vector_cache.c.text_key.in_(keys[start : start + _KEYS_A_STATEMENT])
        async with database.unit() as unit:
            await unit.execute(delete(vector_cache).where(vector_cache.c.model_key == model_key, gone))


def _keys(library: Library, version: str, part: str) -> set[bytes]:
    rows: RowsFile | None = open_mapped(library.folder / "rows" / version, part)
    if rows is None:
        return set()
    texts = rows.texts
    first, _ = distinct(texts)
    return {text_key(texts[row]) for row in first.tolist() if texts[row].strip()}
