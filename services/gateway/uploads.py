"""Uploads that survive a lost connection: the size of the file on the disk is how far it came.

The protocol is tus's core in spirit: create with the length, ask for the offset, append from there. Each piece may carry
its own checksum, and the whole must match the SHA-256 that was announced.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from fastapi import UploadFile

from ltp.core.errors import ErrorCode, LtpError

_CHUNK = 1 << 20
_NAMESPACE = UUID("6b7a7a36-3f0f-4b52-9f0b-0d8f3f4a2c11")


@dataclass(frozen=True)
class Upload:
    """What was announced, and how much of it is here."""

    upload_id: UUID
    filename: str
    size_bytes: int
    sha256: str
    path: Path
    offset: int


@dataclass(frozen=True)
class Uploads:
    """The folder of unfinished uploads."""

    folder: Path
    limit: int

    def create(self, filename: str, size_bytes: int, sha256: str) -> Upload:
        """Announce a file; the same content announced again is the same upload, wherever it stopped."""
        if size_bytes > self.limit:
            raise LtpError(ErrorCode.TOO_LARGE, f"The file is larger than {self.limit} bytes.", "Split it.")
        upload_id = uuid5(_NAMESPACE, f"{sha256}:{size_bytes}")
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"filename": Path(filename).name[:200] or "file", "size_bytes": size_bytes, "sha256": sha256}
        note = self._note(upload_id)
        staging = note.with_suffix(f".{os.getpid()}.tmp")
        staging.write_text(json.dumps(facts))
        staging.replace(note)
        self._part(upload_id).touch()
        return self.find(upload_id)

    def find(self, upload_id: UUID) -> Upload:
        """Raises NOT_FOUND."""
        try:
            facts = json.loads(self._note(upload_id).read_text())
            offset = self._part(upload_id).stat().st_size
        except (FileNotFoundError, ValueError) as error:
            message = f"There is no upload {upload_id}."
            raise LtpError(ErrorCode.NOT_FOUND, message, "Announce it with POST /datasets/uploads.") from error
        return Upload(upload_id, path=self._part(upload_id), offset=offset, **facts)

    async def append(self, upload_id: UUID, offset: int, body: AsyncIterator[bytes], sha256: str | None) -> Upload:
        """Append a piece at `offset`, which must be where the upload stands. What arrived before a cut stays.

        With `sha256` (of the piece) it stays only whole. Raises CONFLICT, CHECKSUM_MISMATCH, TOO_LARGE, DISK_FULL.
        """
        upload = self.find(upload_id)
        with self._locked(upload) as descriptor:
            if os.fstat(descriptor).st_size != offset:
                raise _elsewhere(self.find(upload_id), offset)
            digest, at = hashlib.sha256(), offset
            try:
                async for chunk in body:
                    at += len(chunk)
                    if at > upload.size_bytes:
                        message = f"More than the {upload.size_bytes} bytes that were announced."
                        raise LtpError(ErrorCode.TOO_LARGE, message, "Announce the file again with its true size.")
                    digest.update(chunk)
                    await asyncio.to_thread(_write_all, descriptor, chunk)
                if sha256 is not None and digest.hexdigest() != sha256:
                    message = f"The piece at {offset} has SHA-256 {digest.hexdigest()}, not {sha256}."
                    raise LtpError(ErrorCode.CHECKSUM_MISMATCH, message, "Send the piece again.")
            except LtpError:
                os.ftruncate(descriptor, offset)
                raise
            except BaseException as error:
                # The connection was cut: what came is good, unless the piece promised to come whole.
                if sha256 is not None:
                    os.ftruncate(descriptor, offset)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _full(at) from error
                raise
        return self.find(upload_id)

    def complete(self, upload_id: UUID) -> Upload:
        """The upload, once all of it is here and is what was announced. Raises CONFLICT, CHECKSUM_MISMATCH."""
        upload = self.find(upload_id)
        if upload.offset != upload.size_bytes:
            message = f"Upload {upload_id} has {upload.offset} of {upload.size_bytes} bytes."
            raise LtpError(ErrorCode.CONFLICT, message, "Send the rest with PATCH from that offset.")
        with upload.path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != upload.sha256:
            self.drop(upload_id)
            message = f"The upload has SHA-256 {found}, and {upload.sha256} was announced; it was dropped."
            raise LtpError(ErrorCode.CHECKSUM_MISMATCH, message, "Upload the file again.")
        return upload

    def take(self, upload_id: UUID, dataset_id: UUID) -> Upload:
        """A complete upload as the file of one dataset.

        The upload itself stays for the others who send the same content, until the dataset service finds it old.
        """
        upload = self.complete(upload_id)
        target = self.folder / str(dataset_id)
        os.link(upload.path, target)
        return Upload(upload_id, upload.filename, upload.size_bytes, upload.sha256, target, upload.offset)

    def drop(self, upload_id: UUID) -> None:
        """Forget an upload."""
        self._note(upload_id).unlink(missing_ok=True)
        self._part(upload_id).unlink(missing_ok=True)

    def _part(self, upload_id: UUID) -> Path:
        return self.folder / f"{upload_id}.part"

    def _note(self, upload_id: UUID) -> Path:
        return self.folder / f"{upload_id}.json"

    @contextmanager
    def _locked(self, upload: Upload) -> Iterator[int]:
        """One writer at a time, also across processes; the lock goes with the process."""
        descriptor = os.open(upload.path, os.O_WRONLY | os.O_APPEND)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"Another request is writing to upload {upload.upload_id}."
                raise LtpError(ErrorCode.CONFLICT, message, "Ask for the offset and go on from there.") from error
            yield descriptor
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _elsewhere(upload: Upload, offset: int) -> LtpError:
    message = f"Upload {upload.upload_id} stands at {upload.offset}, not at {offset}."
    return LtpError(ErrorCode.CONFLICT, message, f"Go on from {upload.offset}.")


def _full(size: int) -> LtpError:
    hint = "Free some space under the data directory and upload again."
    return LtpError(ErrorCode.DISK_FULL, f"The disk is full after {size} bytes.", hint)


def digest_file(path: Path) -> tuple[str, int]:
    """(SHA-256, bytes) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


async def receive(file: UploadFile, target: Path, limit: int) -> tuple[str, int]:
    """Write a whole upload to `target`; returns (SHA-256, bytes). Nothing is left behind when it fails."""
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
            raise _full(size) from error
        raise
    return digest.hexdigest(), size
