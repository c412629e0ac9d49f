"""The migration to names by project: what each name had it still has, in the project that the door gave it to."""

from __future__ import annotations

import asyncio
from uuid import UUID

from alembic import command
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from ltp.store.schema import alembic_config, migrate
from tests.conftest import new_database

MINE, THEIRS, OLD, RUN = (UUID(int=n) for n in range(1, 5))
BEFORE = f"""
INSERT INTO dataset.datasets (dataset_id, name, version) VALUES
  ('{MINE}', 'sums', 'aa'), ('{THEIRS}', 'chat', 'bb'), ('{OLD}', 'early', 'cc');
INSERT INTO dataset.names (name, project, personal, keep_days) VALUES
  ('sums', 'default', '["email"]', 9), ('chat', 'lab', '[]', NULL), ('early', 'default', '[]', 3);
INSERT INTO gateway.owners (noun, project) VALUES
  ('{MINE}', 'shop'), ('{THEIRS}', 'lab'), ('dataset:sums', 'shop'), ('{RUN}', 'shop'), ('pipeline:nightly', 'lab');
INSERT INTO scheduler.dataset_versions (name, version, rows, frozen_at) VALUES
  ('sums', 'aa', 4, now()), ('unheard', 'dd', 5, now());
INSERT INTO scheduler.pipeline_runs (run_id, name, spec, spec_hash, state, origin, trigger, inputs) VALUES
  ('{RUN}', 'r', '{{}}', 'x', 'running', '{{}}', '{{}}', '{{}}');
INSERT INTO scheduler.armed_pipelines (name, pipeline_id, spec, armed_at) VALUES ('nightly', '{OLD}', '{{}}', now());
"""  # noqa: S608 — the ids are our own
AFTER = {
    "SELECT project, name FROM dataset.datasets": {("shop", "sums"), ("lab", "chat"), ("default", "early")},
    "SELECT project, name, personal::text, keep_days FROM dataset.titles": {
        ("shop", "sums", '["email"]', 9), ("lab", "chat", "[]", None), ("default", "early", "[]", 3)
    },
    "SELECT project, name, rows FROM scheduler.titled_versions": {("shop", "sums", 4), ("default", "unheard", 5)},
    "SELECT project FROM scheduler.pipeline_runs": {("shop",)},
    "SELECT project FROM scheduler.armed_pipelines": {("lab",)},
}  # fmt: skip


async def test_what_a_name_had_it_has_in_its_project(postgres: tuple[str, str]) -> None:
    url = await new_database(postgres, template=None)
    await asyncio.to_thread(command.upgrade, alembic_config(url), "0020")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in BEFORE.strip().split(";\n"):
            if statement.strip():
                await connection.execute(text(statement.strip().rstrip(";").replace(":", "\\:")))
    await asyncio.to_thread(migrate, url)
    async with engine.connect() as connection:
        for query, wanted in AFTER.items():
            found = (await connection.execute(text(query.replace("::", "\\:\\:")))).all()
            assert {tuple(row) for row in found} == wanted, query
    await engine.dispose()
