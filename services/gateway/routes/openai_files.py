"""`/v1/files`: a file uploaded for fine-tuning is a dataset, and is read at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse

from ltp.contracts.dataset import DatasetUploaded, ReadOptions
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import acting_project
from ltp.store.clock import new_id, now
from services.gateway import store
from services.gateway import store_openai as table
from services.gateway.access import Engine, Serving
from services.gateway.openai_shapes import file_object, id_of, page, row_of
from services.gateway.routes.datasets import settings_of
from services.gateway.uploads import digest_file, receive
from services.gateway.walls import Caller

router = APIRouter(tags=["openai"])


@router.post("/files")
async def create_file(
    runtime: Serving,
    file: Annotated[UploadFile, File(description="JSONL in OpenAI's chat, preference or reinforcement format.")],
    purpose: Annotated[str, Form(max_length=50)],
) -> dict[str, Any]:
    """Upload a file. With the purpose `fine-tune` it becomes a dataset of its own."""
    file_id, project = new_id(), acting_project()
    name = Path(file.filename or "file.jsonl").name[:200]
    target = _place(runtime, file_id.hex)
    digest, size = await receive(file, target, settings_of(runtime).gateway_max_upload_bytes)
    row = {"file_id": file_id, "project": project, "filename": name, "purpose": purpose, "size_bytes": size}
    row["created_at"] = now()
    async with runtime.database.unit() as unit:
        await table.add_file(unit, row)
        if purpose == "fine-tune":
            read = target.parent.parent / str(file_id)
            digest, size = await asyncio.to_thread(_rewrite, target, read)
            dataset = f"file-{file_id.hex}"
            await store.add_dataset(
                unit, {"dataset_id": file_id, "name": dataset, "filename": name, "size_bytes": size}
            )
            event = DatasetUploaded(
                dataset_id=file_id,
                name=dataset,
                # The dataset service goes by the ending; OpenAI's files are JSON lines whatever they are called.
                filename=f"{Path(name).stem}.jsonl",
                path=str(read),
                sha256=digest,
                size_bytes=size,
                holdout=0.0,
                options=ReadOptions(project=project),
            )
            unit.emit(event, about=file_id)
    return file_object({**row, "state": None, "problem": None})


@router.get("/files")
async def list_files(
    engine: Engine,
    caller: Caller,
    purpose: Annotated[str | None, Query(max_length=50)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """Files of the project."""
    rows = await table.find_files(engine, caller.project, purpose=purpose)
    rows = rows if order == "desc" else rows[::-1]
    if after is not None:
        last = id_of(after, "file-")
        at = next((index for index, row in enumerate(rows) if row["file_id"] == last), len(rows))
        rows = rows[at + 1 :]
    return page([file_object(row) for row in rows[:limit]], len(rows) > limit)


@router.get("/files/{file_id}")
async def retrieve_file(file_id: str, engine: Engine, caller: Caller) -> dict[str, Any]:
    """One file: `processed` once it can be trained on, `error` with the reason when it cannot."""
    return file_object(await find_file(engine, caller.project, file_id))


@router.get("/files/{file_id}/content", response_class=FileResponse)
async def file_content(file_id: str, runtime: Serving, caller: Caller) -> FileResponse:
    """The file as it was uploaded."""
    row = await find_file(runtime.database.engine, caller.project, file_id)
    return FileResponse(_place(runtime, row["file_id"].hex), filename=row["filename"])


@router.delete("/files/{file_id}")
async def delete_file(file_id: str, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Forget a file; jobs trained on it keep what they learned from."""
    row = await find_file(runtime.database.engine, caller.project, file_id)
    async with runtime.database.unit() as unit:
        await table.delete_file(unit, row["file_id"])
    await asyncio.to_thread(_place(runtime, row["file_id"].hex).unlink, missing_ok=True)
    return {"id": file_id, "object": "file", "deleted": True}


async def find_file(engine: Engine, project: str | None, file_id: str) -> table.Row:
    """The row of a file. Raises NOT_FOUND."""
    found = await table.find_files(engine, project, file_id=id_of(file_id, "file-"))
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no file {file_id}.", "GET /v1/files lists all.")
    return found[0]


def _place(runtime: Runtime, name: str) -> Path:
    return settings_of(runtime).root() / "uploads" / "openai" / name


def _rewrite(source: Path, target: Path) -> tuple[str, int]:
    """The same rows in the dataset service's words, line by line, whatever the size."""
    with source.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            if line.strip():
                out.write(row_of(line.rstrip(b"\r\n")) + b"\n")
    return digest_file(target)
