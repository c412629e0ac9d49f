"""Unpacks an archive that may be hostile: no path out of the folder, no links, no devices, no bomb."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ltp.core.errors import ErrorCode, LtpError

MAX_MEMBERS = 10_000
# Text that repeats itself a lot packs a hundredfold; deflate's limit is 1032.
MAX_RATIO = 200
_FREE_BYTES = 64 * 1024**2
_CHUNK = 1 << 20
_REFUSED = "Nothing was read. Make the archive anew from plain files in folders."


@dataclass
class _Budget:
    """How much may still come out of an archive of `packed` bytes."""

    packed: int
    limit: int
    out: int = 0

    def spend(self, count: int, name: str) -> None:
        self.out += count
        if self.out > self.limit:
            message = f"The archive unpacks to more than {self.limit} bytes (at {name})."
            raise LtpError(ErrorCode.TOO_LARGE, message, "Split it, or raise LTP_DATASET_MAX_UNPACKED_BYTES.")
        if self.out > _FREE_BYTES and self.out > MAX_RATIO * self.packed:
            message = f"{name} unpacks to more than {MAX_RATIO} times the size of the archive: it looks like a bomb."
            raise LtpError(ErrorCode.TOO_LARGE, message, "Send the files unpacked if they are meant.")


def kind_of(path: Path) -> str | None:
    """`zip`, `tar`, `gzip`, or None for a file that is no archive; by the content, not by the name."""
    with path.open("rb") as stream:
        head = stream.read(262)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "tar" if head[257:262] == b"ustar" else None


def unpack(path: Path, into: Path, limit: int, name: str | None = None) -> list[tuple[Path, str]]:
    """The files of an archive as (where they lie now, what the archive calls them).

    They are written under numbers of ours, never under a name of the archive's. `limit` is in bytes. A gzip file holds
    one file, or a tar. Raises LtpError: DATASET_UNREADABLE (broken, encrypted, a path that leaves the archive, a link
    or a device), TOO_LARGE.
    """
    into.mkdir(parents=True, exist_ok=True)
    budget = _Budget(max(1, path.stat().st_size), limit)
    called = name or path.name
    try:
        match kind_of(path):
            case "zip":
                return list(_unzip(path, into, budget))
            case "tar":
                return list(_untar(path, into, budget))
            case "gzip":
                return list(_gunzip(path, into, budget, called))
            case _:
                return [(path, called)]
    # Everything a damaged archive makes these modules raise.
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError,
            RuntimeError, UnicodeDecodeError) as error:  # fmt: skip
        message = f"{called} is a broken archive: {error}."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Make it anew, or send the files unpacked.") from error


def _unzip(path: Path, into: Path, budget: _Budget) -> Iterator[tuple[Path, str]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_count(len(members))
        for member in members:
            mode = member.external_attr >> 16
            kind = "a link" if stat.S_ISLNK(mode) else None
            _check(member.filename, kind)
            if member.flag_bits & 1:
                raise LtpError(ErrorCode.DATASET_UNREADABLE, f"{member.filename} is encrypted.", "Send it unencrypted.")
        for number, member in enumerate(members):
            if not member.is_dir():
                yield _copied(lambda m=member: archive.open(m), into / f"{number:05}", member.filename, budget)


def _untar(path: Path, into: Path, budget: _Budget) -> Iterator[tuple[Path, str]]:
    # As a stream: a member's header is believed only as far as the bytes that follow it.
    with tarfile.open(path, "r|*") as archive:
        for number, member in enumerate(archive):
            _check_count(number + 1)
            kind = (
                None
                if member.isfile() or member.isdir()
                else "a link"
                if member.issym() or member.islnk()
                else "a device"
            )
            _check(member.name, kind)
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield _copied(lambda c=content: c, into / f"{number:05}", member.name, budget)


def _gunzip(path: Path, into: Path, budget: _Budget, called: str) -> Iterator[tuple[Path, str]]:
    inner = called.removesuffix(".gz").removesuffix(".tgz")
    target, _ = _copied(lambda: gzip.GzipFile(path), into / "unzipped", inner, budget)
    if kind_of(target) == "tar":
        (into / "tar").mkdir(exist_ok=True)
        yield from _untar(target, into / "tar", budget)
        target.unlink()
    else:
        yield target, inner


def _copied(
    open_it: Callable[[], IO[bytes] | gzip.GzipFile], target: Path, name: str, budget: _Budget
) -> tuple[Path, str]:
    with open_it() as source, target.open("wb") as out:
        while chunk := source.read(_CHUNK):
            budget.spend(len(chunk), name)
            out.write(chunk)
    return target, name


def _check(name: str, kind: str | None) -> None:
    if kind is not None:
        raise LtpError(ErrorCode.DATASET_UNREADABLE, f"{name} in the archive is {kind}.", _REFUSED)
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]) or "\x00" in name:
        message = f"{name!r} in the archive leads out of it."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, _REFUSED)


def _check_count(count: int) -> None:
    if count > MAX_MEMBERS:
        message = f"The archive has more than {MAX_MEMBERS} files."
        raise LtpError(ErrorCode.TOO_LARGE, message, "Join them into fewer.")
