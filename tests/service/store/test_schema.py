"""The migrated database is what the code's tables say, however often and by however many it is migrated."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

import ltp.queue.tables  # noqa: F401 — its table belongs to the comparison
from ltp.contracts import SERVICES
from ltp.store.metadata import metadata
from ltp.store.schema import wait_for_schema
from tests.conftest import new_database


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"include_schemas": True})
    return list(compare_metadata(context, metadata))


async def test_the_migrations_make_the_tables_of_the_code(database_url: str) -> None:
    for service in SERVICES:
        importlib.import_module(f"services.{service}.app")
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_two_migrations_at_once_bring_an_empty_database_to_the_head(postgres: tuple[str, str]) -> None:
    url = await new_database(postgres, template=None)
    environment = {**os.environ, "LTP_DATABASE_URL": url}
    both = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "ltp.store.migrate", env=environment)
        for _ in range(2)
    ]
    assert [await process.wait() for process in both] == [0, 0]
    engine = create_async_engine(url)
    await asyncio.wait_for(wait_for_schema(engine), 5)
    await engine.dispose()


async def test_a_service_waits_until_the_schema_is_there(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE alembic_version RENAME TO hidden"))
    waiting = asyncio.create_task(wait_for_schema(engine))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE hidden RENAME TO alembic_version"))
    await asyncio.wait_for(waiting, 5)
    await engine.dispose()
