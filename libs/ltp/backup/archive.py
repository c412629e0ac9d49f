"""The backup as a tar file: what goes in, with a digest of each part, and what comes out only when all of them agree."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError

MANIFEST = "manifest.json"
FORMAT = 1
# Of the data directory: servers' own stores, which are taken by their own means; what is of this life of the process only;
# and what is large and can be made again. Vectors are made anew by `ltp dataset embed`.
_NOT_TAKEN = {"pg", "pg.tmp", "nats", "nats.conf", "milvus", "logs", "lock", "run.json", "prometheus.yml", "models"}
_NOT_TAKEN |= {"prometheus-rules.yml", "secrets/postgres", "secrets/postgres_superuser"}
_MOST_LOG_BYTES = 4 << 20


def files_of(root: Path, checkpoints: Iterable[Path], *, models: bool) -> Iterator[Path]:
    """The files that a backup takes; of checkpoints only the given folders."""
    kept = {path.resolve() for path in checkpoints}
    left_out = _NOT_TAKEN - ({"models"} if models else set())
    for folder, names, files in os.walk(root):
        here = Path(folder)
        relative = here.relative_to(root)
        names[:] = [name for name in names if str(relative / name) not in left_out]
        if here.name == "checkpoints" and relative.parts[:1] == ("runs",):
            names[:] = [name for name in names if (here / name).resolve() in kept]
        for name in sorted(files):
            path = here / name
            if str(relative / name) in left_out or path.is_symlink() or not path.is_file():
                continue
            if relative.parts[:1] == ("runs",) and name.startswith("log.txt") and path.stat().st_size > _MOST_LOG_BYTES:
                continue
            yield path


def write(target: Path, parts: Path, root: Path, files: Iterable[Path], about: dict[str, Any]) -> int:
    """Write the archive whole or not at all; `parts` holds the dump and the snapshots. Returns its bytes."""
    draft = target.with_name(f"{target.name}.part")
    digests: dict[str, str] = {}
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds the keyring
    try:
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
            for path in sorted(p for p in parts.rglob("*") if p.is_file()):
                _add(tar, path, f"parts/{path.relative_to(parts).as_posix()}", digests)
            for path in files:
                try:
                    _add(tar, path, f"files/{path.relative_to(root).as_posix()}", digests)
                except FileNotFoundError:
                    continue  # Removed in this moment.
            _add_manifest(tar, parts, about | {"format": FORMAT, "digests": digests})
            tar.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target.stat().st_size


def read(source: Path, target: Path) -> dict[str, Any]:
    """Unpack an archive into an empty folder, and return its manifest. Raises INVALID_REQUEST for what is none, or is broken."""
    try:
        with tarfile.open(source) as tar:
            tar.extractall(target, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _unusable(source, f"{type(error).__name__}: {str(error)[:200]}") from error
    try:
        about: dict[str, Any] = json.loads((target / MANIFEST).read_text())
        digests: dict[str, str] = about["digests"]
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(source, "its end is missing, or it is no backup") from error
    if about.get("format") != FORMAT:
        raise _unusable(source, f"it has format {about.get('format')}, and this ltp reads {FORMAT}")
    for name, digest in digests.items():
        path = target / name
        if not path.is_file() or _digest(path) != digest:
            raise _unusable(source, f"{name} is not what was written")
    return about


def _add(tar: tarfile.TarFile, path: Path, name: str, digests: dict[str, str]) -> None:
    """Add a file as long as it was when it was opened: logs and metrics grow meanwhile."""
    with path.open("rb") as file:
        member = tar.gettarinfo(arcname=name, fileobj=file)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        digest = _Reader(file, member.size)
        tar.addfile(member, digest)  # type: ignore[arg-type]
    digests[name] = digest.hexdigest()


def _add_manifest(tar: tarfile.TarFile, parts: Path, about: dict[str, Any]) -> None:
    path = parts / MANIFEST
    path.write_text(json.dumps(about, indent=1))
    tar.add(path, MANIFEST)


class _Reader:
    """Hands out the first `size` bytes of a file and digests them on the way; what was cut off meanwhile is zeros."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left, self._digest = file, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data: bytes = self._file.read(wanted)
        data += b"\0" * (wanted - len(data))
        self._left -= len(data)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unusable(source: Path, why: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_REQUEST, f"{source} cannot be restored: {why}.", "Take another backup.")
