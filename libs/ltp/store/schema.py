"""The schema's version: brought up to date by one migration process, awaited by every service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATIONS = Path(__file__).with_name("migrations")
_POLL_SECONDS = 0.1


def alembic_config(url: str) -> Config:
    """Alembic's configuration without an ini file; the URL travels as an attribute, never through %-interpolation."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def head() -> str:
    """The newest migration this code knows."""
    revision = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    if revision is None:
        raise RuntimeError("no migrations found beside the code")
    return revision


def migrate(url: str) -> None:
    """Bring the database to the head. Concurrent calls wait for each other on an advisory lock."""
    command.upgrade(alembic_config(url), "head")


async def wait_for_schema(engine: AsyncEngine) -> None:
    """Return when the database answers and its schema is at this code's head or newer."""
    wanted, known = head(), {s.revision for s in ScriptDirectory.from_config(alembic_config("")).walk_revisions()}
    log, told = structlog.get_logger(), False
    while True:
        try:
            async with engine.connect() as connection:
                found = await connection.scalar(text("SELECT version_num FROM public.alembic_version"))
            # A revision this code does not know is a newer one: migrations only ever add (docs/migrations.md).
            if found == wanted or (found is not None and found not in known):
                return
        except (OSError, DBAPIError) as error:
            if not told:
                log.info("waiting for the database", reason=type(error).__name__)
                told = True
        await asyncio.sleep(_POLL_SECONDS)
