"""The files of a host over SFTP."""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import asyncssh

from ltp.core.errors import ErrorCode, LtpError
from services.runner.ssh.link import Link

# A transfer of many gigabytes takes its time; a dead link is found by the keep-alive.
_TRANSFER_SECONDS = 24 * 3600.0
_SPARE_BYTES = 64 << 20


class SftpFiles:
    """As `Files`, at the other end of a link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def read(self, path: Path, offset: int, limit: int) -> bytes | None:
        try:
            async with self.link.using() as (_, sftp), sftp.open(str(path), "rb") as file:
                # Not the file's own loop: /proc says that its files are empty.
                return bytes(await file.read(limit, offset))
        except FileNotFoundError:
            return None

    async def size(self, path: Path) -> int | None:
        try:
            async with self.link.using() as (_, sftp):
                return (await sftp.stat(str(path))).size or 0
        except FileNotFoundError:
            return None

    async def write(self, path: Path, content: bytes) -> None:
        draft = f"{path}.{secrets.token_hex(4)}.part"
        async with self.link.using() as (_, sftp):
            await sftp.makedirs(str(path.parent), exist_ok=True)
            async with sftp.open(draft, "wb") as file:
                await file.write(content)
                with suppress(asyncssh.SFTPError):
                    await file.fsync()
            await sftp.posix_rename(draft, str(path))

    async def names(self, folder: Path) -> list[str]:
        try:
            async with self.link.using() as (_, sftp):
                return sorted(str(name) for name in await sftp.listdir(str(folder)) if name not in (".", ".."))
        except FileNotFoundError:
            return []

    async def tree(self, folder: Path) -> dict[str, int]:
        try:
            async with self.link.using() as (_, sftp):
                return await _tree(sftp, str(folder), "")
        except FileNotFoundError:
            return {}

    async def real(self, path: Path) -> Path:
        async with self.link.using() as (_, sftp):
            try:
                return Path(str(await sftp.realpath(str(path))))
            except asyncssh.SFTPNoSuchFile:
                return Path(posixpath.normpath(path))

    async def put(self, source: Path, target: Path) -> None:
        await self._require_room(target.parent, (await asyncio.to_thread(source.stat)).st_size)
        draft = f"{target}.{secrets.token_hex(4)}.part"
        async with self.link.using(_TRANSFER_SECONDS) as (_, sftp):
            await sftp.makedirs(str(target.parent), exist_ok=True)
            await sftp.put(str(source), draft, follow_symlinks=True)
            await sftp.posix_rename(draft, str(target))

    async def get(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.part")
        async with self.link.using(_TRANSFER_SECONDS) as (_, sftp):
            await sftp.get(str(source), str(draft))
        draft.replace(target)

    async def remove(self, folder: Path) -> None:
        async with self.link.using(_TRANSFER_SECONDS) as (_, sftp):
            if await sftp.isdir(str(folder)):
                await sftp.rmtree(str(folder))

    async def move(self, source: Path, target: Path) -> None:
        async with self.link.using() as (_, sftp):
            try:
                await sftp.rename(str(source), str(target))
            except asyncssh.SFTPError:
                # Another runner put it there meanwhile, or an answer of ours was lost on the way.
                if not await sftp.exists(str(target)):
                    raise
                await sftp.rmtree(str(source), ignore_errors=True)

    async def _require_room(self, folder: Path, count: int) -> None:
        """SFTP says only "failure" when a disk is full, and too late."""
        async with self.link.using() as (_, sftp):
            await sftp.makedirs(str(folder), exist_ok=True)
            found = await sftp.statvfs(str(folder))
        free = found.bavail * found.frsize
        if free < count + _SPARE_BYTES:
            raise LtpError(
                ErrorCode.DISK_FULL,
                f"{self.link.target.host_id} has {free >> 20} MiB free at {folder}, and {count >> 20} MiB are to be copied.",
                "Free space there; what the platform keeps lies in the cache/ and runs/ of the working directory.",
            )


async def _tree(sftp: asyncssh.SFTPClient, folder: str, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    async for entry in sftp.scandir(folder):
        name, mode = str(entry.filename), entry.attrs.permissions or 0
        if name in (".", ".."):
            continue
        if stat.S_ISDIR(mode):
            found |= await _tree(sftp, f"{folder}/{name}", f"{prefix}{name}/")
        elif stat.S_ISREG(mode):
            found[prefix + name] = entry.attrs.size or 0
    return found
