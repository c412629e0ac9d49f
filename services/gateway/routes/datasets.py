"""Datasets come in by upload, path or hub; reading them is the dataset service's work: 202 and a place to look."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltp.bus.rpc import ask
from ltp.contracts.dataset import (
    DatasetRequested,
    DatasetUploaded,
    Detected,
    DetectedAsked,
    InspectAsked,
    Inspection,
    ReadOptions,
    VersionDetail,
    Versions,
    VersionsAsked,
)
from ltp.contracts.event import Event
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING, sought_in
from ltp.store.clock import new_id
from services.gateway import store
from services.gateway.access import Engine, Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.routes.models import Dataset
from services.gateway.settings import GatewaySettings
from services.gateway.uploads import Uploads, receive

router = APIRouter(tags=["datasets"])

DatasetOrder = Literal[
    "-created_at", "created_at", "-name", "name", "-state", "state", "-rows", "rows", "-size_bytes", "size_bytes",
]  # fmt: skip
DatasetState = Literal["uploaded", "frozen", "rejected", "deleted"]
VersionOrder = Literal["-created_at", "created_at", "-name", "name", "-rows", "rows", "-size_bytes", "size_bytes"]

Holdout = Annotated[float, Field(ge=0, lt=1, description="Share of rows held out as split `test`.")]


class SourceRequest(BaseModel):
    """A dataset from an upload that is complete, a path on the server, or a hub."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    source: str | None = Field(
        default=None, min_length=1, max_length=2000,
        description="A path on the server (relative ones lie in DATA/datasets), hf://OWNER/NAME or modelscope://...",
    )  # fmt: skip
    upload_id: UUID | None = None
    holdout: Holdout = 0.1
    options: ReadOptions = ReadOptions()


class InspectRequest(BaseModel):
    """How a source would be read."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(default=None, min_length=1, max_length=2000)
    upload_id: UUID | None = None
    options: ReadOptions = ReadOptions()
    rows: int = Field(default=3, ge=0, le=20)


@router.post("/datasets", status_code=202)
async def upload_dataset(
    runtime: Serving,
    response: Response,
    file: Annotated[UploadFile, File(description="JSONL, JSON, CSV, Parquet, or an archive of them.")],
    name: Annotated[Name, Form(description="What recipes call it.")],
    holdout: Annotated[float, Form(ge=0, lt=1, description="Share of rows held out as split `test`.")] = 0.1,
    options: Annotated[str, Form(description="ReadOptions as JSON.")] = "{}",
) -> Dataset:
    """Upload a file in one piece. It is read and frozen in the background; poll the Location until `frozen` or `rejected`."""
    settings = settings_of(runtime)
    dataset_id = new_id()
    read = read_options(options)
    # The client's name of the file is shown, never used as a path.
    target = settings.root() / "uploads" / str(dataset_id)
    digest, size = await receive(file, target, settings.gateway_max_upload_bytes)
    return await _uploaded(
        runtime, response, dataset_id, name, _shown(file.filename), target, digest, size, holdout, read
    )


@router.post("/datasets/sources", status_code=202)
async def add_source(request: SourceRequest, runtime: Serving, response: Response) -> Dataset:
    """Add a dataset from a complete upload, a path on the server, or a hub."""
    if (request.source is None) == (request.upload_id is None):
        raise LtpError(ErrorCode.INVALID_REQUEST, "Give either source or upload_id.", "See /docs.")
    dataset_id = new_id()
    if request.upload_id is not None:
        upload = await asyncio.to_thread(uploads_of(runtime).take, request.upload_id, dataset_id)
        return await _uploaded(
            runtime, response, dataset_id, request.name, upload.filename, upload.path, upload.sha256, upload.size_bytes,
            request.holdout, of_project(request.options),
        )  # fmt: skip
    source = absolute(runtime, request.source or "")
    event = DatasetRequested(
        dataset_id=dataset_id,
        name=request.name,
        source=source,
        holdout=request.holdout,
        options=of_project(request.options),
    )
    row = {"dataset_id": dataset_id, "name": request.name, "filename": source}
    return await say(runtime, response, event, row)


@router.post("/datasets/inspect")
async def inspect_source(request: InspectRequest, runtime: Serving) -> Inspection:
    """The format that would be detected, with its evidence, and the first rows; nothing is added."""
    if (request.source is None) == (request.upload_id is None):
        raise LtpError(ErrorCode.INVALID_REQUEST, "Give either source or upload_id.", "See /docs.")
    filename = None
    if request.upload_id is not None:
        upload = await asyncio.to_thread(uploads_of(runtime).complete, request.upload_id)
        source, filename = str(upload.path), upload.filename
    else:
        source = absolute(runtime, request.source or "")
    asked = InspectAsked(source=source, filename=filename, options=request.options, rows=request.rows)
    return await ask(runtime.client, "dataset", "inspect", asked, Inspection, timeout=120.0)


@router.get("/datasets")
async def list_datasets(
    engine: Engine,
    paging: Paging,
    name: Annotated[str | None, Query(max_length=200, description="Only what is called so.")] = None,
    state: Annotated[DatasetState | None, Query(description="Only what is in this state.")] = None,
    sort: Annotated[DatasetOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> list[Dataset]:
    """Datasets, newest first. The header `Link` leads to the next page."""

    async def read(page: PageQuery) -> list[Dataset]:
        rows = await store.list_datasets(engine, page, name=name, state=state)
        return [Dataset.model_validate(dict(row)) for row in rows]

    return (await paging.page(read, identity="dataset_id", sort=sort, cursor=cursor, limit=limit)).items


@router.get("/datasets/detected")
async def list_detected(runtime: Serving) -> Detected:
    """What lies in `datasets/` and `models/` of the data directory and could be used."""
    return await ask(runtime.client, "dataset", "detected", DetectedAsked(), Detected)


@router.get("/datasets/versions")
async def list_versions(
    runtime: Serving,
    paging: Paging,
    name: Name | None = None,
    sort: Annotated[VersionOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> Versions:
    """Frozen versions, newest first, with what each was made of."""

    async def read(page: PageQuery) -> list[VersionDetail]:
        query = VersionsAsked(**dict(page), name=name, project=sought_in())
        return (await ask(runtime.client, "dataset", "versions", query, Versions)).versions

    page = await paging.page(read, identity="dataset_id", sort=sort, cursor=cursor, limit=limit)
    return Versions(versions=page.items, next_cursor=page.next_cursor)


@router.get("/datasets/{dataset_id}")
async def show_dataset(dataset_id: UUID, engine: Engine) -> Dataset:
    """One dataset with its splits, or the problem that prevents it."""
    row = await store.dataset(engine, dataset_id)
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dataset {dataset_id}.", "`ltp dataset list` shows all.")
    return Dataset.model_validate(dict(row))


async def _uploaded(
    runtime: Runtime, response: Response, dataset_id: UUID, name: str, filename: str, path: Path, digest: str,
    size: int, holdout: float, options: ReadOptions,
) -> Dataset:  # fmt: skip
    event = DatasetUploaded(
        dataset_id=dataset_id, name=name, filename=filename, path=str(path), sha256=digest, size_bytes=size,
        holdout=holdout, options=options,
    )  # fmt: skip
    row = {"dataset_id": dataset_id, "name": name, "filename": filename, "size_bytes": size}
    return await say(runtime, response, event, row)


async def say(runtime: Runtime, response: Response, event: Event, row: dict[str, Any]) -> Dataset:
    """Note a dataset that is on its way and say so; answers with it and its Location."""
    dataset_id: UUID = row["dataset_id"]
    async with runtime.database.unit() as unit:
        await store.add_dataset(unit, row)
        unit.emit(event, about=dataset_id)
    response.headers["Location"] = f"/api/v1/datasets/{dataset_id}"
    return await show_dataset(dataset_id, runtime.database.engine)


def settings_of(runtime: Runtime) -> GatewaySettings:
    """The gateway's own settings."""
    settings = runtime.settings
    assert isinstance(settings, GatewaySettings)
    return settings


def uploads_of(runtime: Runtime) -> Uploads:
    """Where resumable uploads lie."""
    settings = settings_of(runtime)
    return Uploads(settings.root() / "uploads", settings.gateway_max_upload_bytes)


def absolute(runtime: Runtime, source: str) -> str:
    """A source as the dataset service is asked for it: a hub's reference, or an absolute path."""
    return source if "://" in source else str(settings_of(runtime).root() / "datasets" / source)


def read_options(text: str) -> ReadOptions:
    """Options of a form. Raises INVALID_REQUEST."""
    try:
        return of_project(ReadOptions.model_validate(json.loads(text)))
    except (ValidationError, ValueError) as error:
        message = f"The options are no ReadOptions: {str(error).splitlines()[0]}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "See /docs for their form.") from error


def of_project(options: ReadOptions) -> ReadOptions:
    """The same, for the project on whose behalf is acted, unless an administrator names another."""
    acting = ACTING.get()
    if acting is None or acting.project is None:
        return options
    if "project" in options.model_fields_set and acting.role == "admin":
        acting.project = options.project
        return options
    return options.model_copy(update={"project": acting.project})


def _shown(filename: str | None) -> str:
    return Path(filename or "file").name[:200]
