"""Datasets come in by upload; reading them is the dataset service's work, so the answer is 202 and a place to look."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, File, Form, Query, Response, UploadFile

from ltp.contracts.dataset import DatasetUploaded
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import new_id
from services.gateway import store
from services.gateway.access import Engine, Serving
from services.gateway.routes.models import Dataset
from services.gateway.settings import GatewaySettings

router = APIRouter(tags=["datasets"])

_CHUNK = 1 << 20


@router.post("/datasets", status_code=202)
async def upload_dataset(
    runtime: Serving,
    response: Response,
    file: Annotated[UploadFile, File(description="JSONL, JSON or Parquet.")],
    name: Annotated[Name, Form(description="What recipes call it.")],
    holdout: Annotated[float, Form(ge=0, lt=1, description="Share of rows held out as split `test`.")] = 0.1,
) -> Dataset:
    """Upload a file. It is read and frozen in the background; poll the Location until `frozen` or `rejected`."""
    settings = runtime.settings
    assert isinstance(settings, GatewaySettings)
    dataset_id = new_id()
    # The client's name of the file is shown, never used as a path.
    target = settings.root() / "uploads" / str(dataset_id)
    digest, size = await _receive(file, target, settings.gateway_max_upload_bytes)
    filename = Path(file.filename or "file").name[:200]
    event = DatasetUploaded(
        dataset_id=dataset_id,
        name=name,
        filename=filename,
        path=str(target),
        sha256=digest,
        size_bytes=size,
        holdout=holdout,
    )
    async with runtime.database.unit() as unit:
        row = {"dataset_id": dataset_id, "name": name, "filename": filename, "size_bytes": size}
        await store.add_dataset(unit, row)
        unit.emit(event, about=dataset_id)
    response.headers["Location"] = f"/api/v1/datasets/{dataset_id}"
    return await show_dataset(dataset_id, runtime.database.engine)


@router.get("/datasets")
async def list_datasets(engine: Engine, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Dataset]:
    """Datasets, newest first."""
    return [Dataset.model_validate(dict(row)) for row in await store.list_datasets(engine, limit=limit)]


@router.get("/datasets/{dataset_id}")
async def show_dataset(dataset_id: UUID, engine: Engine) -> Dataset:
    """One dataset with its splits, or the problem that prevents it."""
    row = await store.dataset(engine, dataset_id)
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dataset {dataset_id}.", "`ltp dataset list` shows all.")
    return Dataset.model_validate(dict(row))


async def _receive(file: UploadFile, target: Path, limit: int) -> tuple[str, int]:
    """Write the upload to `target`; returns (SHA-256, bytes). Nothing is left behind when it fails."""
    digest, size = hashlib.sha256(), 0
    try:
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        handle = await asyncio.to_thread(target.open, "xb")
        try:
            while chunk := await file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise LtpError(ErrorCode.TOO_LARGE, f"The file is larger than {limit} bytes.", "Split it.")
                digest.update(chunk)
                await asyncio.to_thread(handle.write, chunk)
        finally:
            await asyncio.to_thread(handle.close)
    except BaseException as error:
        await asyncio.to_thread(target.unlink, missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space under the data directory and upload again."
            raise LtpError(ErrorCode.DISK_FULL, f"The disk is full after {size} bytes.", hint) from error
        raise
    return digest.hexdigest(), size
