"""The files of a host, near or far: the few operations on which everything the runner knows of a run rests."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from services.runner import launch as launcher


class Files(Protocol):
    """A file system. Paths are absolute and mean what they mean on the host."""

    async def read(self, path: Path, offset: int, limit: int) -> bytes | None:
        """At most `limit` bytes from `offset`; None where there is no such file."""
        ...

    async def size(self, path: Path) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    async def write(self, path: Path, content: bytes) -> None:
        """Put a whole file in place, its folders made: a reader sees the old content or the new one."""
        ...

    async def names(self, folder: Path) -> list[str]:
        """What a folder holds; nothing where there is none."""
        ...

    async def tree(self, folder: Path) -> dict[str, int]:
        """All regular files below a folder, relative to it, with their bytes. Links are not followed."""
        ...

    async def real(self, path: Path) -> Path:
        """The path with its links resolved; what does not exist yet stays as it is named."""
        ...

    async def put(self, source: Path, target: Path) -> None:
        """Copy a file of this machine to `target`, whole or not at all."""
        ...

    async def get(self, source: Path, target: Path) -> None:
        """Copy a file to `target` on this machine, whole or not at all."""
        ...

    async def remove(self, folder: Path) -> None:
        """Delete a folder with all that is in it, links themselves and not what they lead to; nothing where there is none."""
        ...

    async def move(self, source: Path, target: Path) -> None:
        """Rename a folder; a target that another put there meanwhile stays."""
        ...


class LocalFiles:
    """The files of this machine."""

    async def read(self, path: Path, offset: int, limit: int) -> bytes | None:
        return await asyncio.to_thread(_read, path, offset, limit)

    async def size(self, path: Path) -> int | None:
        return await asyncio.to_thread(lambda: path.stat().st_size if path.is_file() else None)

    async def write(self, path: Path, content: bytes) -> None:
        await asyncio.to_thread(_write, path, content)

    async def names(self, folder: Path) -> list[str]:
        return await asyncio.to_thread(lambda: sorted(os.listdir(folder)) if folder.is_dir() else [])

    async def tree(self, folder: Path) -> dict[str, int]:
        return await asyncio.to_thread(local_tree, folder)

    async def real(self, path: Path) -> Path:
        return await asyncio.to_thread(path.resolve)

    async def put(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(_copy, source, target)

    get = put

    async def remove(self, folder: Path) -> None:
        await asyncio.to_thread(_remove, folder)

    async def move(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(_move, source, target)


def local_tree(folder: Path) -> dict[str, int]:
    """As `Files.tree`, of this machine."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def source_tree(folder: Path) -> dict[str, int]:
    """Files below a folder that is to be copied: a model of a hub's cache is made of links to its files."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _read(path: Path, offset: int, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_bytes_whole(path, content)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    shutil.copyfile(source, draft)
    os.replace(draft, target)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _move(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(source, ignore_errors=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
