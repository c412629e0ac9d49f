"""What versions there are, what rows they hold, how they differ, and what a project takes."""

from __future__ import annotations

import asyncio
from typing import Any

from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.dataset import (
    DatasetDiff,
    DiffAsked,
    Quota,
    QuotaAsked,
    Rows,
    RowsAsked,
    VersionAsked,
    VersionDetail,
    Versions,
    VersionsAsked,
)
from services.dataset import store
from services.dataset.apart import apart
from services.dataset.derive import Source
from services.dataset.diff import diff
from services.dataset.handlers import SERVICE
from services.dataset.masks import rows_by_id
from services.dataset.questions.asked import Db, Settings, fitting, known_split, meant

questions = NatsRouter()
_MAX_ROWS = 1000


def _detail(row: Any) -> VersionDetail:
    values = dict(row) | {"created_at": row["ended_at"] or row["uploaded_at"]}
    defaults = {"format": "", "evidence": "", "duplicates": 0, "size_bytes": 0, "parents": [], "reason": "",
                "provenance": {}, "project": "default", "personal": []}  # fmt: skip
    return VersionDetail.model_validate(values | {k: v for k, v in defaults.items() if values.get(k) is None})


@questions.subscriber(**answered_by(SERVICE, "versions"))
@replies
async def list_versions(asked: VersionsAsked, database: Db) -> Versions:
    rows = await store.versions(database.engine, asked.project, asked.name, asked)
    return Versions(versions=[_detail(row) for row in rows])


@questions.subscriber(**answered_by(SERVICE, "version"))
@replies
async def show_version(asked: VersionAsked, database: Db, settings: Settings) -> VersionDetail:
    source = await meant(asked, database, settings)
    return _detail((await store.version(database.engine, source.project, source.name, source.version))[0])


@questions.subscriber(**answered_by(SERVICE, "rows"))
@replies
async def show_rows(asked: RowsAsked, database: Db, settings: Settings) -> Rows:
    source = await meant(asked, database, settings)
    limit = max(1, min(asked.limit, _MAX_ROWS))
    if asked.row_ids:
        rows = await asyncio.to_thread(lambda: rows_by_id(source, asked.row_ids).to_pylist())
        return fitting(Rows(total=len(rows), rows=rows))
    rows, total = await asyncio.to_thread(_page, source, asked.split, max(0, asked.offset), limit)
    return fitting(Rows(total=total, rows=rows))


def _page(source: Source, split: str | None, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    known_split(source, split)
    splits: dict[str, Any] = source.manifest()["splits"]
    total = sum(facts["rows"] for name, facts in splits.items() if split in {None, name})
    rows: list[dict[str, Any]] = []
    at = 0
    for name, table in source.tables(rows=4096):
        if split in {None, name}:
            part = (
                table.slice(max(0, offset - at), limit - len(rows))
                if at + table.num_rows > offset
                else table.slice(0, 0)
            )
            rows += [{**row, "split": name} for row in part.to_pylist()]
            at += table.num_rows
        if len(rows) >= limit:
            break
    return rows, total


@questions.subscriber(**answered_by(SERVICE, "diff"))
@replies
async def compare_versions(asked: DiffAsked, database: Db, settings: Settings) -> DatasetDiff:
    before, after = [await meant(side, database, settings) for side in (asked.before, asked.after)]
    return DatasetDiff.model_validate(await apart(diff, before, after, max(0, min(asked.limit, 1000))))


@questions.subscriber(**answered_by(SERVICE, "quota"))
@replies
async def show_quota(asked: QuotaAsked, database: Db) -> Quota:
    quota_bytes, used = await store.quota(database.engine, asked.project)
    return Quota(project=asked.project, quota_bytes=quota_bytes, used_bytes=used)
