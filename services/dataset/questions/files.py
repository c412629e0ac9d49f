"""Files that come out of versions and other files: exports, conversions, a first look, and what lies about."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.dataset import (
    ConvertAsked,
    Detected,
    DetectedAsked,
    DetectedPath,
    ExportAsked,
    ExportedFile,
    InspectAsked,
    Inspection,
    ReadOptions,
)
from services.dataset.apart import apart
from services.dataset.derive import Source
from services.dataset.export import kind_for, write
from services.dataset.files import staging_directory
from services.dataset.handlers import SERVICE
from services.dataset.hub import DATA_SUFFIXES, HubSettings
from services.dataset.ingest import first_rows, tables_of
from services.dataset.obtain import Obtained, obtain
from services.dataset.questions.asked import Db, Settings, fitting, known_split, meant

questions = NatsRouter()


@questions.subscriber(**answered_by(SERVICE, "export"))
@replies
async def export_version(asked: ExportAsked, database: Db, settings: Settings) -> ExportedFile:
    source = await meant(asked, database, settings)
    kind = kind_for(asked.to, asked.kind)
    known_split(source, asked.split)
    name = f"{source.name}-{source.version[:12]}-{asked.split or 'all'}.{asked.to}.{kind}"
    target = settings.root() / "exports" / name
    rows = await apart(_export, source, asked.split, asked.to, kind, target)
    return ExportedFile(path=str(target), rows=rows, format=asked.to)


def _export(source: Source, split: str | None, to: str, kind: str, target: Path) -> int:
    tables = (table for name, table in source.tables(rows=4096) if split in {None, name})
    return write(tables, to, kind, target, source.name)


@questions.subscriber(**answered_by(SERVICE, "convert"))
@replies
async def convert_file(asked: ConvertAsked, settings: Settings) -> ExportedFile:
    return await apart(_convert, asked, settings.root() / "exports", settings.roots(), settings.hub())


def _convert(asked: ConvertAsked, exports: Path, roots: list[Path], hub: HubSettings) -> ExportedFile:
    kind = kind_for(asked.to, asked.kind)
    key = hashlib.sha256(asked.path.encode()).hexdigest()[:16]
    with _obtained(asked.path, asked.filename, asked.options, exports, roots, hub) as got:
        columns, tables = tables_of(got.files, got.columns)
        stem = Path(asked.filename).stem
        target = exports / f"{key}-{stem}.{asked.to}.{kind}"
        rows = write(tables, asked.to, kind, target, stem)
    return ExportedFile(path=str(target), rows=rows, format=asked.to, evidence=columns.evidence)


@questions.subscriber(**answered_by(SERVICE, "inspect"))
@replies
async def inspect_source(asked: InspectAsked, settings: Settings) -> Inspection:
    return await apart(_inspect, asked, settings.root() / "exports", settings.roots(), settings.hub())


def _inspect(asked: InspectAsked, exports: Path, roots: list[Path], hub: HubSettings) -> Inspection:
    with _obtained(asked.source, asked.filename, asked.options, exports, roots, hub) as got:
        columns, rows = first_rows(got.files, got.columns, max(0, min(asked.rows, 20)))
        return fitting(
            Inspection(
                files=[file.name for file in got.files], format=columns.format.value, evidence=columns.evidence,
                columns=dict(columns.columns), rows=rows,
            )
        )  # fmt: skip


@contextmanager
def _obtained(
    source: str, filename: str | None, options: ReadOptions, folder: Path, roots: list[Path], hub: HubSettings
) -> Iterator[Obtained]:
    """The files of a source for as long as they are read. Two who read one at once have a folder each."""
    with staging_directory(folder, f"read-{uuid4().hex}") as work:
        yield obtain(
            source, filename, member=options.member, mapping=options.mapping, roots=roots, hub=hub, work=work
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
