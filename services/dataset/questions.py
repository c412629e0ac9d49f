"""The questions that the dataset service answers: what there is, what it is made of, and what would be trained."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.dataset import (
    ConvertAsked,
    DatasetDiff,
    DatasetProfile,
    Detected,
    DetectedAsked,
    DetectedPath,
    DiffAsked,
    ExportAsked,
    ExportedFile,
    GateAnswer,
    GateAsked,
    InspectAsked,
    Inspection,
    MaskAsked,
    MaskedRows,
    ProfileAsked,
    Quota,
    QuotaAsked,
    Rows,
    RowsAsked,
    VersionAsked,
    VersionDetail,
    Versions,
    VersionsAsked,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.dataset import store
from services.dataset.derive import Source
from services.dataset.diff import diff
from services.dataset.export import kind_for, write
from services.dataset.files import PROFILE, staging_directory
from services.dataset.gate import Gate
from services.dataset.handlers import SERVICE
from services.dataset.hub import DATA_SUFFIXES
from services.dataset.ingest import first_rows, tables_of
from services.dataset.masks import MaskProcess, Template, judged, masked, rows_by_id, sample
from services.dataset.obtain import obtain
from services.dataset.settings import DatasetSettings
from services.dataset.versions import find

questions = NatsRouter()
Db = Annotated[Database, Context("database")]
Settings = Annotated[DatasetSettings, Context("settings")]
Masks = Annotated[MaskProcess, Context("masks")]
Gated = Annotated[Gate, Context("gate")]
# NATS carries a megabyte.
_REPLY_BYTES = 900_000
_MASK_SECONDS = 240.0
_MAX_ROWS = 1000


def versions_dir(settings: DatasetSettings) -> Path:
    """Where versions lie: a folder per name, a folder per version."""
    return settings.root() / "datasets"


async def _found(asked: VersionAsked, database: Database, settings: DatasetSettings) -> Source:
    return await find(database, versions_dir(settings), asked.name, asked.version)


def _detail(row: Any) -> VersionDetail:
    values = dict(row) | {"created_at": row["ended_at"] or row["uploaded_at"]}
    defaults = {"format": "", "evidence": "", "duplicates": 0, "size_bytes": 0, "parents": [], "reason": "",
                "provenance": {}, "project": "default", "personal": []}  # fmt: skip
    return VersionDetail.model_validate(values | {k: v for k, v in defaults.items() if values.get(k) is None})


@questions.subscriber(**answered_by(SERVICE, "versions"))
@replies
async def list_versions(asked: VersionsAsked, database: Db) -> Versions:
    rows = await store.versions(database.engine, asked.name, asked.limit)
    return Versions(versions=[_detail(row) for row in rows])


@questions.subscriber(**answered_by(SERVICE, "version"))
@replies
async def show_version(asked: VersionAsked, database: Db, settings: Settings) -> VersionDetail:
    source = await _found(asked, database, settings)
    return _detail((await store.version(database.engine, source.name, source.version))[0])


@questions.subscriber(**answered_by(SERVICE, "rows"))
@replies
async def show_rows(asked: RowsAsked, database: Db, settings: Settings) -> Rows:
    source = await _found(asked, database, settings)
    limit = max(1, min(asked.limit, _MAX_ROWS))
    if asked.row_ids:
        rows = await asyncio.to_thread(lambda: rows_by_id(source, asked.row_ids).to_pylist())
        return _fitting(Rows(total=len(rows), rows=rows))
    rows, total = await asyncio.to_thread(_page, source, asked.split, max(0, asked.offset), limit)
    return _fitting(Rows(total=total, rows=rows))


def _page(source: Source, split: str | None, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    splits: dict[str, Any] = source.manifest()["splits"]
    if split is not None and split not in splits:
        message = f"{source.name} has no split {split!r}."
        raise LtpError(ErrorCode.NOT_FOUND, message, f"It has: {', '.join(sorted(splits))}.")
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


@questions.subscriber(**answered_by(SERVICE, "profile"))
@replies
async def show_profile(asked: ProfileAsked, database: Db, settings: Settings, masks: Masks) -> DatasetProfile:
    source = await _found(asked, database, settings)
    row = (await store.version(database.engine, source.name, source.version))[0]
    splits = json.loads(await asyncio.to_thread((source.directory / PROFILE).read_text))
    if asked.split is not None:
        splits = {name: found for name, found in splits.items() if name == asked.split}
        if not splits:
            raise LtpError(ErrorCode.NOT_FOUND, f"{source.name} has no split {asked.split!r}.", "")
    without_personal(splits, set(row["personal"] or ()))
    tokens = None
    if asked.model is not None:
        template = Template(_model(settings, asked.model), asked.max_length)
        rows = await asyncio.to_thread(sample, source, asked.split, max(1, min(asked.sample_rows, 50_000)))
        found = await masked(masks, rows, template, detail=False, seconds=_MASK_SECONDS)
        tokens = judged(found, rows.column("row_id").to_pylist(), row["rows"], asked.max_length)
    return DatasetProfile(name=source.name, version=source.version, splits=splits, tokens=tokens)


def without_personal(splits: dict[str, dict[str, Any]], personal: set[str]) -> None:
    """Take the values of marked fields out of profiles; counts of values and nulls stay."""
    for found in splits.values():
        for name in personal & found["fields"].keys():
            found["fields"][name] = {
                k: v for k, v in found["fields"][name].items() if k in {"count", "nulls", "distinct"}
            }
            found["fields"][name]["personal"] = True
        found["crosstabs"] = [table for table in found["crosstabs"] if not personal & {*table["fields"]}]
        found["lengths"] = {k: v for k, v in found["lengths"].items() if k.removeprefix("fields.") not in personal}


@questions.subscriber(**answered_by(SERVICE, "mask"))
@replies
async def show_mask(asked: MaskAsked, database: Db, settings: Settings, masks: Masks) -> MaskedRows:
    source = await _found(asked, database, settings)
    if asked.row_ids:
        rows = await asyncio.to_thread(rows_by_id, source, asked.row_ids)
    else:
        rows = await asyncio.to_thread(sample, source, asked.split, max(1, min(asked.limit, 20)))
    template = Template(_model(settings, asked.model), asked.max_length, asked.truncation)
    found = await masked(masks, rows, template, detail=True, seconds=_MASK_SECONDS)
    named = zip(rows.column("row_id").to_pylist(), rows.column("id").to_pylist(), found, strict=True)
    return _fitting(
        MaskedRows(version=source.version, rows=[{"row_id": r, "id": i, **_verdict(f), **f} for r, i, f in named])
    )


def _verdict(found: dict[str, Any]) -> dict[str, str]:
    if "problem" in found:
        return {"verdict": "problem"}
    if found["kept_trained"] == 0:
        return {"verdict": "nothing is trained" if found["trained"] == 0 else "all that is trained is cut off"}
    return {"verdict": "everything is trained" if found["kept_trained"] == found["kept"] else "ok"}


@questions.subscriber(**answered_by(SERVICE, "gate"))
@replies
async def judge_dataset(asked: GateAsked, database: Db, settings: Settings, gate: Gated) -> GateAnswer:
    version = VersionAsked(name=asked.dataset.name, version=asked.dataset.version)
    return await gate.judge(asked.recipe, await _found(version, database, settings))


@questions.subscriber(**answered_by(SERVICE, "diff"))
@replies
async def compare_versions(asked: DiffAsked, database: Db, settings: Settings) -> DatasetDiff:
    before, after = [await _found(side, database, settings) for side in (asked.before, asked.after)]
    found = await asyncio.to_thread(diff, before, after, max(0, min(asked.limit, 1000)))
    return DatasetDiff.model_validate(found)


@questions.subscriber(**answered_by(SERVICE, "export"))
@replies
async def export_version(asked: ExportAsked, database: Db, settings: Settings) -> ExportedFile:
    source = await _found(asked, database, settings)
    kind = kind_for(asked.to, asked.kind)
    splits = source.manifest()["splits"]
    if asked.split is not None and asked.split not in splits:
        message = f"{source.name} has no split {asked.split!r}."
        raise LtpError(ErrorCode.NOT_FOUND, message, f"It has: {', '.join(sorted(splits))}.")
    name = f"{source.name}-{source.version[:12]}-{asked.split or 'all'}.{asked.to}.{kind}"
    target = settings.root() / "exports" / name
    tables = (table for split, table in source.tables(rows=4096) if asked.split in {None, split})
    rows = await asyncio.to_thread(write, tables, asked.to, kind, target, source.name)
    return ExportedFile(path=str(target), rows=rows, format=asked.to)


@questions.subscriber(**answered_by(SERVICE, "convert"))
@replies
async def convert_file(asked: ConvertAsked, settings: Settings) -> ExportedFile:
    return await asyncio.to_thread(_convert, asked, settings)


def _convert(asked: ConvertAsked, settings: DatasetSettings) -> ExportedFile:
    kind = kind_for(asked.to, asked.kind)
    key = hashlib.sha256(asked.path.encode()).hexdigest()[:16]
    exports = settings.root() / "exports"
    with staging_directory(exports, key) as work:
        got = obtain(
            asked.path, asked.filename, member=asked.options.member, mapping=asked.options.mapping,
            roots=settings.roots(), hub=settings.hub(), work=work,
        )  # fmt: skip
        columns, tables = tables_of(got.files, got.columns)
        stem = Path(asked.filename).stem
        target = exports / f"{key}-{stem}.{asked.to}.{kind}"
        rows = write(tables, asked.to, kind, target, stem)
    return ExportedFile(path=str(target), rows=rows, format=asked.to, evidence=columns.evidence)


@questions.subscriber(**answered_by(SERVICE, "inspect"))
@replies
async def inspect_source(asked: InspectAsked, settings: Settings) -> Inspection:
    return await asyncio.to_thread(_inspect, asked, settings)


def _inspect(asked: InspectAsked, settings: DatasetSettings) -> Inspection:
    key = hashlib.sha256(asked.source.encode()).hexdigest()[:16]
    with staging_directory(settings.root() / "exports", f"inspect-{key}") as work:
        got = obtain(
            asked.source, asked.filename, member=asked.options.member, mapping=asked.options.mapping,
            roots=settings.roots(), hub=settings.hub(), work=work,
        )  # fmt: skip
        columns, rows = first_rows(got.files, got.columns, max(0, min(asked.rows, 20)))
        return _fitting(
            Inspection(
                files=[file.name for file in got.files], format=columns.format.value, evidence=columns.evidence,
                columns=dict(columns.columns), rows=rows,
            )
        )  # fmt: skip


@questions.subscriber(**answered_by(SERVICE, "detected"))
@replies
async def list_detected(asked: DetectedAsked, settings: Settings) -> Detected:
    return await asyncio.to_thread(detected, settings.root())


def detected(root: Path) -> Detected:
    """Data files and folders in `datasets/` that are no versions, and models in `models/`: folders with a config.json."""
    datasets: list[DetectedPath] = []
    for path in sorted((root / "datasets").glob("*")):
        if path.name.startswith(".") or (path.is_dir() and any(path.glob("[0-9a-f]*/manifest.json"))):
            continue
        names = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        packed = (*DATA_SUFFIXES, ".txt", ".zip", ".tar", ".tar.gz", ".tgz")
        data = [p for p in names if p.name.lower().endswith(packed)]
        if data:
            datasets.append(
                DetectedPath(name=path.name, path=str(path), size_bytes=sum(p.stat().st_size for p in data))
            )
    models = [
        DetectedPath(
            name=config.parent.relative_to(root / "models").as_posix(), path=str(config.parent),
            size_bytes=sum(p.stat().st_size for p in config.parent.iterdir() if p.is_file()),
        )
        for config in sorted((root / "models").rglob("config.json"))
        if not any(part.startswith(".") for part in config.relative_to(root / "models").parts)
    ]  # fmt: skip
    return Detected(datasets=datasets, models=models)


@questions.subscriber(**answered_by(SERVICE, "quota"))
@replies
async def show_quota(asked: QuotaAsked, database: Db) -> Quota:
    project, quota_bytes, used = await store.quota(database.engine, "", asked.project)
    return Quota(project=project, quota_bytes=quota_bytes, used_bytes=used)


def _model(settings: DatasetSettings, path: str) -> str:
    """A model's folder: absolute, or under the data directory's `models`."""
    found = settings.root() / "models" / path
    if not found.is_dir():
        message = f"There is no model at {found}."
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, message, "Give the path of a folder with a tokenizer.")
    return str(found)


def _fitting(answer: Any) -> Any:
    """The answer, if it can be carried."""
    size = len(answer.model_dump_json())
    if size > _REPLY_BYTES:
        message = f"The answer has {size} bytes, and at most {_REPLY_BYTES} can be carried."
        raise LtpError(ErrorCode.TOO_LARGE, message, "Ask for fewer rows.")
    return answer
