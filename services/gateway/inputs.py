"""The content of files and model directories that a command names, as a digest: what is the same need not be done again."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime

# Files up to this size are read whole; of larger ones the ends, the size and the moment of the last change are taken,
# since weights of a hundred gigabytes would keep the door shut for minutes.
_WHOLE_BYTES = 256 << 20
_END_BYTES = 1 << 20
_MOST_FILES = 10_000


async def pin(runtime: Runtime, paths: list[str]) -> dict[str, str]:
    """Path as written -> digest of what it holds now. Raises NOT_FOUND for what cannot be read."""
    return {path: await asyncio.to_thread(_digest, locate(runtime, path)) for path in paths}


async def still_same(runtime: Runtime, inputs: dict[str, str]) -> None:
    """Raise INPUT_CHANGED when something no longer holds what it held."""
    for path, digest in (await pin(runtime, list(inputs))).items():
        if digest != inputs[path]:
            hint = "Submit the pipeline again, to run it on what is there now."
            raise LtpError(ErrorCode.INPUT_CHANGED, f"{path} has changed since the pipeline was submitted.", hint)


def locate(runtime: Runtime, path: str) -> Path:
    """Where a path lies: absolute as it is, else below DATA/models. The platform's secrets are out of bounds."""
    root = runtime.settings.root()
    found = Path(root / "models" / path).resolve()
    if found.is_relative_to((root / "secrets").resolve()):
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{path} lies among the platform's secrets.", "Name another file.")
    return found


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        if not files or len(files) > _MOST_FILES:
            what = "holds no file" if path.is_dir() else "does not exist"
            what = what if not files else f"holds {len(files)} files, more than {_MOST_FILES}"
            hint = "Give the path of a file or model directory on the gateway's machine."
            raise LtpError(ErrorCode.NOT_FOUND, f"{path} {what}.", hint)
        for file in files:
            total.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            total.update(_content(file))
    except OSError as error:
        raise LtpError(
            ErrorCode.NOT_FOUND, f"{path} cannot be read ({error.strerror}).", "Look at its rights."
        ) from error
    return total.hexdigest()


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        status = file.stat()
        if status.st_size <= _WHOLE_BYTES:
            return hashlib.file_digest(stream, "sha256").digest()
        ends = hashlib.sha256(str(status.st_mtime_ns).encode())
        ends.update(stream.read(_END_BYTES))
        stream.seek(-_END_BYTES, 2)
        ends.update(stream.read())
        return ends.digest()
