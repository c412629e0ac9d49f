"""The log file of each process: appended to, turned over when large, and quoted when a start fails."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ltp.up.record import now

ROTATE_BYTES = 20 * 2**20
TAIL_LINES = 20


def open_log(path: Path) -> BinaryIO:
    """Open a log for one life of a process, keeping one older file beside it."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab", buffering=0)
    log.write(f"--- {now()} start\n".encode())
    return log


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
