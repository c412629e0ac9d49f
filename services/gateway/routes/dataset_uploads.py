"""Uploads in pieces, for files that are too large to send twice: announce, append, ask how far it came."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ltp.contracts.values import Sha256
from services.gateway.access import Serving
from services.gateway.routes.datasets import uploads_of
from services.gateway.uploads import Upload

router = APIRouter(tags=["datasets"])


class Announcement(BaseModel):
    """A file that will come."""

    model_config = ConfigDict(extra="forbid")

    filename: str = Field(min_length=1, max_length=500)
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class UploadState(BaseModel):
    """How far an upload came. It is complete when `offset` is `size_bytes`."""

    upload_id: UUID
    filename: str
    size_bytes: int
    sha256: str
    offset: int


@router.post("/datasets/uploads", status_code=201)
async def announce_upload(announcement: Announcement, runtime: Serving, response: Response) -> UploadState:
    """Announce a file. Announcing the same content again finds the upload where it stopped."""
    uploads = uploads_of(runtime)
    upload = await asyncio.to_thread(
        uploads.create, announcement.filename, announcement.size_bytes, announcement.sha256
    )
    response.headers["Location"] = f"/api/v1/datasets/uploads/{upload.upload_id}"
    return _state(upload, response)


@router.get("/datasets/uploads/{upload_id}")
@router.head("/datasets/uploads/{upload_id}", include_in_schema=False)
async def show_upload(upload_id: UUID, runtime: Serving, response: Response) -> UploadState:
    """How far it came; also in the header Upload-Offset."""
    return _state(await asyncio.to_thread(uploads_of(runtime).find, upload_id), response)


@router.patch("/datasets/uploads/{upload_id}")
async def append_to_upload(
    upload_id: UUID,
    request: Request,
    runtime: Serving,
    response: Response,
    upload_offset: Annotated[int, Header(ge=0, description="Where the body begins; must be where the upload stands.")],
    upload_sha256: Annotated[
        Sha256 | None, Header(description="SHA-256 of the body; it stays only whole then.")
    ] = None,
) -> UploadState:
    """Append the body. What arrived before a lost connection stays, so that the next piece goes on from there."""
    upload = await uploads_of(runtime).append(upload_id, upload_offset, request.stream(), upload_sha256)
    return _state(upload, response)


@router.delete("/datasets/uploads/{upload_id}", status_code=204)
async def drop_upload(upload_id: UUID, runtime: Serving) -> None:
    """Forget an unfinished upload."""
    uploads = uploads_of(runtime)
    await asyncio.to_thread(uploads.find, upload_id)
    await asyncio.to_thread(uploads.drop, upload_id)


def _state(upload: Upload, response: Response) -> UploadState:
    response.headers["Upload-Offset"] = str(upload.offset)
    return UploadState(
        upload_id=upload.upload_id, filename=upload.filename, size_bytes=upload.size_bytes, sha256=upload.sha256,
        offset=upload.offset,
    )  # fmt: skip
