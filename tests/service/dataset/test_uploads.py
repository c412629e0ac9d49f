"""Uploads in pieces: cut off, repeated, misplaced, damaged. What is taken as a dataset is what was announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.gateway.uploads import Upload, Uploads

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", limit=1_000_000)


async def pieces(*parts: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        raise then


def announced(uploads: Uploads, size: int = len(DATA), sha: str = SHA) -> Upload:
    return uploads.create("rows.jsonl", size, sha)


async def test_a_cut_connection_goes_on_where_it_stopped(uploads: Uploads) -> None:
    upload = announced(uploads)
    with pytest.raises(ConnectionError):
        await uploads.append(upload.upload_id, 0, pieces(DATA[:3000], then=ConnectionError()), None)
    again = announced(uploads)
    assert (again.upload_id, again.offset) == (upload.upload_id, 3000)
    with pytest.raises(LtpError, match="has 3000 of 10240 bytes"):
        uploads.complete(upload.upload_id)
    done = await uploads.append(upload.upload_id, 3000, pieces(DATA[3000:5000], DATA[5000:]), None)
    assert done.offset == len(DATA)
    taken = uploads.take(upload.upload_id, uuid4())
    assert taken.path.read_bytes() == DATA and taken.filename == "rows.jsonl"
    with pytest.raises(LtpError, match="no upload"):
        uploads.find(upload.upload_id)


@pytest.mark.parametrize("offset", [1, 5000])
async def test_a_piece_in_the_wrong_place_changes_nothing(uploads: Uploads, offset: int) -> None:
    upload = announced(uploads)
    with pytest.raises(LtpError, match="stands at 0") as caught:
        await uploads.append(upload.upload_id, offset, pieces(DATA), None)
    assert caught.value.code is ErrorCode.CONFLICT and uploads.find(upload.upload_id).offset == 0


async def test_a_damaged_piece_is_taken_back(uploads: Uploads) -> None:
    upload = announced(uploads)
    for body, code in ((b"x" * 100, ErrorCode.CHECKSUM_MISMATCH), (DATA + b"x", ErrorCode.TOO_LARGE)):
        with pytest.raises(LtpError) as caught:
            await uploads.append(upload.upload_id, 0, pieces(body), SHA)
        assert caught.value.code is code and uploads.find(upload.upload_id).offset == 0
    with pytest.raises(ConnectionError):
        await uploads.append(upload.upload_id, 0, pieces(DATA[:50], then=ConnectionError()), SHA)
    assert uploads.find(upload.upload_id).offset == 0, "a piece with a checksum comes whole or not at all"


async def test_a_whole_that_is_not_what_was_announced_is_dropped(uploads: Uploads) -> None:
    upload = announced(uploads, sha="0" * 64)
    await uploads.append(upload.upload_id, 0, pieces(DATA), None)
    with pytest.raises(LtpError) as caught:
        uploads.complete(upload.upload_id)
    assert caught.value.code is ErrorCode.CHECKSUM_MISMATCH
    with pytest.raises(LtpError):
        uploads.find(upload.upload_id)


async def test_two_writers_never_mix(uploads: Uploads) -> None:
    upload = announced(uploads)
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:100]
        await gate.wait()
        yield DATA[100:]

    first = asyncio.create_task(uploads.append(upload.upload_id, 0, slow(), None))
    while uploads.find(upload.upload_id).offset < 100:
        await asyncio.sleep(0)
    with pytest.raises(LtpError, match="Another request"):
        await uploads.append(upload.upload_id, 100, pieces(b"y"), None)
    gate.set()
    await first
    assert uploads.complete(upload.upload_id).sha256 == SHA


def test_too_large_and_strange_names(uploads: Uploads) -> None:
    with pytest.raises(LtpError) as caught:
        announced(uploads, size=2_000_000)
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert uploads.create("../../etc/passwd", 1, SHA).filename == "passwd"
