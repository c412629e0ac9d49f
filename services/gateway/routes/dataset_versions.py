"""What is in a version of a dataset, and versions made of versions. A version is named NAME, NAME@HASH or by its id."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from ltp.bus.rpc import ask
from ltp.contracts.dataset import (
    ConvertAsked,
    DatasetDeletionRequested,
    DatasetDerivationRequested,
    DatasetDiff,
    DatasetMarked,
    DatasetProfile,
    DiffAsked,
    ExportAsked,
    ExportedFile,
    MaskAsked,
    MaskedRows,
    MixPart,
    ProfileAsked,
    ProjectQuotaSet,
    Quota,
    QuotaAsked,
    Rows,
    RowsAsked,
    VersionAsked,
    VersionDetail,
)
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import acting_project, sought_in
from ltp.store.clock import new_id
from services.gateway import store, store_names
from services.gateway.access import Serving
from services.gateway.routes.datasets import read_options, say, settings_of
from services.gateway.routes.models import Dataset
from services.gateway.uploads import receive

router = APIRouter(tags=["datasets"])
_REFERENCE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:@(?P<version>[0-9a-f]{1,64}))?")
_WORK_SECONDS = 600.0
RowIds = Annotated[list[str] | None, Query(alias="row", max_length=100, description="row_id or id, may be repeated.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SplitRequest(_Request):
    """New splits by the hash of the rows' ids; the ratios sum to 1."""

    shares: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    name: Name | None = Field(default=None, description="Left out, a version of the same name.")


class KeepRequest(_Request):
    """The rows whose fields have one of the given values each."""

    where: dict[str, list[str | int | float | bool | None]] = Field(min_length=1)
    name: Name | None = None


class MixRequest(_Request):
    """Rows of several versions in the proportion of their weights, no row twice."""

    name: Name
    parts: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1, description="NAME or NAME@HASH -> weight.")
    rows: int | None = Field(default=None, gt=0)


class MarkRequest(_Request):
    """What holds for every version of a name; what is left out stays as it was."""

    personal: list[str] | None = Field(default=None, description="Fields that hold personal data.")
    keep_days: int | None = Field(default=None, gt=0, description="Versions are deleted when they are older.")
    project: Name | None = Field(default=None, description="Whose, where several projects have the name.")


class QuotaRequest(_Request):
    """How many bytes the versions of a project may take; null for no limit."""

    quota_bytes: int | None = Field(ge=0)


@router.get("/datasets/{ref}/version")
async def show_version(ref: str, runtime: Serving) -> VersionDetail:
    """A frozen version: where it came from, what it was made of, and what is marked on it."""
    return await _detail(runtime, ref)


@router.get("/datasets/{ref}/rows")
async def show_rows(
    ref: str,
    runtime: Serving,
    split: str | None = None,
    row: RowIds = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Rows:
    """Rows in the normal form."""
    version = await _version(runtime, ref)
    asked = RowsAsked(**version, split=split, row_ids=row or [], offset=offset, limit=limit)
    return await ask(runtime.client, "dataset", "rows", asked, Rows, timeout=60.0)


@router.get("/datasets/{ref}/profile")
async def show_profile(
    ref: str,
    runtime: Serving,
    split: str | None = None,
    model: str | None = None,
    max_length: Annotated[int, Query(ge=1)] = 1024,
    sample_rows: Annotated[int, Query(ge=1, le=50_000)] = 500,
) -> DatasetProfile:
    """Counts, lengths, languages, fields and cross-tables; with a model also in tokens under its chat template."""
    version = await _version(runtime, ref)
    asked = ProfileAsked(**version, split=split, model=model, max_length=max_length, sample_rows=sample_rows)
    return await ask(runtime.client, "dataset", "profile", asked, DatasetProfile, timeout=300.0)


@router.get("/datasets/{ref}/mask")
async def show_mask(
    ref: str,
    runtime: Serving,
    model: str,
    split: str | None = None,
    row: RowIds = None,
    max_length: Annotated[int, Query(ge=1)] = 1024,
    truncation: Literal["left", "right"] = "right",
    limit: Annotated[int, Query(ge=1, le=20)] = 1,
) -> MaskedRows:
    """Token by token, what verl would train on: the rows named, else the first ones."""
    version = await _version(runtime, ref)
    asked = MaskAsked(
        **version,
        split=split,
        model=model,
        row_ids=row or [],
        max_length=max_length,
        truncation=truncation,
        limit=limit,
    )
    return await ask(runtime.client, "dataset", "mask", asked, MaskedRows, timeout=300.0)


@router.get("/datasets/{ref}/diff")
async def show_diff(
    ref: str, runtime: Serving, to: str, limit: Annotated[int, Query(ge=0, le=1000)] = 20
) -> DatasetDiff:
    """What changed from this version to another."""
    before, after = VersionAsked(**await _version(runtime, ref)), VersionAsked(**await _version(runtime, to))
    asked = DiffAsked(before=before, after=after, limit=limit)
    return await ask(runtime.client, "dataset", "diff", asked, DatasetDiff, timeout=120.0)


@router.get("/datasets/{ref}/export", response_class=FileResponse)
async def export_version(
    ref: str,
    runtime: Serving,
    to: Annotated[
        str, Query(alias="format", description="messages, sharegpt, alpaca, verl_sft, verl_rl, verl_dpo ...")
    ],
    split: str | None = None,
    kind: Annotated[str | None, Query(description="jsonl, json, csv or parquet.")] = None,
) -> FileResponse:
    """A version, or one split of it, as a file in another format."""
    asked = ExportAsked(**await _version(runtime, ref), split=split, to=to, kind=kind)
    found = await ask(runtime.client, "dataset", "export", asked, ExportedFile, timeout=_WORK_SECONDS)
    return _file(found)


@router.post("/datasets/convert", response_class=FileResponse)
async def convert_file(
    runtime: Serving,
    file: Annotated[UploadFile, File(description="JSONL, JSON, CSV, Parquet, or an archive of them.")],
    to: Annotated[str, Form(alias="format")],
    kind: Annotated[str | None, Form(description="jsonl, json, csv or parquet.")] = None,
    options: Annotated[str, Form(description="ReadOptions as JSON.")] = "{}",
) -> FileResponse:
    """A file in another format; nothing is added."""
    settings = settings_of(runtime)
    target = settings.root() / "uploads" / f"convert-{new_id()}"
    await receive(file, target, settings.gateway_max_upload_bytes)
    try:
        asked = ConvertAsked(
            path=str(target), filename=Path(file.filename or "file").name[:200], to=to, kind=kind,
            options=read_options(options),
        )  # fmt: skip
        found = await ask(runtime.client, "dataset", "convert", asked, ExportedFile, timeout=_WORK_SECONDS)
    finally:
        await asyncio.to_thread(target.unlink, missing_ok=True)
    return _file(found)


@router.post("/datasets/mix", status_code=202)
async def mix_versions(request: MixRequest, runtime: Serving, response: Response) -> Dataset:
    """Mix versions by weight into a new version."""
    parts = [(await _detail(runtime, ref), weight) for ref, weight in request.parts.items()]
    return await _derived(runtime, response, "mix", request.name, parts, rows=request.rows)


@router.post("/datasets/{ref}/split", status_code=202)
async def split_version(ref: str, request: SplitRequest, runtime: Serving, response: Response) -> Dataset:
    """Split a version anew."""
    if abs(sum(request.shares.values()) - 1) > 1e-9:
        message = f"The shares sum to {sum(request.shares.values()):g}, not to 1."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give ratios that sum to 1.")
    detail = await _detail(runtime, ref)
    name = request.name or detail.name
    return await _derived(runtime, response, "split", name, [(detail, 1.0)], shares=request.shares)


@router.post("/datasets/{ref}/keep", status_code=202)
async def keep_rows(ref: str, request: KeepRequest, runtime: Serving, response: Response) -> Dataset:
    """Keep rows by the values of their fields, as a new version."""
    detail = await _detail(runtime, ref)
    if personal := sorted({*request.where} & {*detail.personal}):
        message = f"Field {personal[0]!r} is marked as personal, and what is asked for here goes into events."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Filter by another field.")
    return await _derived(runtime, response, "keep", request.name or detail.name, [(detail, 1.0)], where=request.where)


@router.put("/datasets/{name}/marks", status_code=202)
async def mark_dataset(name: Name, request: MarkRequest, runtime: Serving, response: Response) -> MarkRequest:
    """Mark fields as personal, and say how long versions are kept."""
    asked = VersionAsked(name=name, project=request.project or sought_in())
    detail = await ask(runtime.client, "dataset", "version", asked, VersionDetail)
    event = DatasetMarked(name=name, **{**request.model_dump(), "project": detail.project})
    async with runtime.database.unit() as unit:
        unit.emit(event, about=name)
    response.headers["Location"] = f"/api/v1/datasets/{name}/version"
    return request


@router.delete("/datasets/{ref}", status_code=202)
async def delete_dataset(ref: str, runtime: Serving, response: Response) -> DatasetDeletionRequested:
    """Delete one version (NAME@HASH or an id) or every version of a name. Jobs that are not over keep theirs."""
    detail = await _detail(runtime, ref)
    name, project = detail.name, detail.project
    version = None if (await _version(runtime, ref))["version"] is None else detail.version
    used = await store_names.jobs_on_dataset(runtime.database.engine, project, name, version)
    if used:
        message = f"{len(used)} jobs that are not over use {ref}, among them {used[0]}."
        raise LtpError(ErrorCode.CONFLICT, message, "Cancel them first, or wait until they are over.")
    event = DatasetDeletionRequested(name=name, version=version, project=project)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=name)
    response.headers["Location"] = f"/api/v1/datasets/{quote(ref)}/version"
    return event


@router.get("/dataset-quotas/{project}")
async def show_quota(project: Name, runtime: Serving) -> Quota:
    """What the versions of a project may take, and take."""
    return await ask(runtime.client, "dataset", "quota", QuotaAsked(project=project), Quota)


@router.put("/dataset-quotas/{project}", status_code=202)
async def set_quota(project: Name, request: QuotaRequest, runtime: Serving) -> QuotaRequest:
    """Limit what the versions of a project may take."""
    async with runtime.database.unit() as unit:
        unit.emit(ProjectQuotaSet(project=project, quota_bytes=request.quota_bytes), about=project)
    return request


# -- parts -----------------------------------------------------------------------------------------------------------


async def _version(runtime: Runtime, ref: str) -> dict[str, Any]:
    """Name, version or None, and project or None of NAME, NAME@HASH or a dataset's id.

    Raises INVALID_REQUEST, NOT_FOUND, DATASET_NOT_READY.
    """
    try:
        row = await store.dataset(runtime.database.engine, UUID(ref))
    except ValueError:
        found = _REFERENCE.fullmatch(ref)
        if found is None:
            hint = "Give NAME, NAME@HASH or a dataset's id."
            raise LtpError(ErrorCode.INVALID_REQUEST, f"{ref!r} names no dataset.", hint) from None
        return {**found.groupdict(), "project": sought_in()}
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dataset {ref}.", "`ltp dataset list` shows all.")
    if row["version"] is None:
        message = f"Dataset {ref} is {row['state']}."
        raise LtpError(ErrorCode.DATASET_NOT_READY, message, "Wait until it is frozen; `ltp dataset get` says why not.")
    project = await store_names.project_of(runtime.database.engine, row["dataset_id"])
    return {"name": row["name"], "version": row["version"], "project": project}


async def _detail(runtime: Runtime, ref: str) -> VersionDetail:
    asked = VersionAsked(**await _version(runtime, ref))
    return await ask(runtime.client, "dataset", "version", asked, VersionDetail)


async def _derived(
    runtime: Runtime, response: Response, kind: Any, name: str, of: list[tuple[VersionDetail, float]], **more: Any
) -> Dataset:
    dataset_id = new_id()
    parts = [MixPart(name=detail.name, version=detail.version, weight=weight) for detail, weight in of]
    projects = {detail.project for detail, _ in of}
    event = DatasetDerivationRequested(
        dataset_id=dataset_id, name=name, kind=kind, parts=parts, project=acting_project(),
        source_project=projects.pop() if len(projects) == 1 else None, **more,
    )  # fmt: skip
    row = {"dataset_id": dataset_id, "name": name, "filename": f"{kind} of {', '.join(part.name for part in parts)}"}
    return await say(runtime, response, event, row)


def _file(found: ExportedFile) -> FileResponse:
    """The file, which is removed once it was sent."""
    path = Path(found.path)
    headers = {"X-Rows": str(found.rows)}
    return FileResponse(
        path, filename=path.name, headers=headers, background=BackgroundTask(path.unlink, missing_ok=True)
    )
