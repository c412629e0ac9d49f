"""Uploads that nobody finished, whole ones that were read, and folders of killed readers: they go after a while."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from pathlib import Path

# A whole upload stays this long for other clients who send the same content at the same time.
_WHOLE_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0


def expire_uploads(folder: Path, unfinished_seconds: float, now: float | None = None) -> list[Path]:
    """Remove uploads (`ID.part` with its note `ID.json`) that were not written to for too long; returns the parts."""
    now = time.time() if now is None else now
    gone: list[Path] = []
    for part in sorted(folder.glob("*.part")):
        note = part.with_suffix(".json")
        try:
            age = now - max(part.stat().st_mtime, note.stat().st_mtime if note.exists() else 0.0)
            limit = min(_WHOLE_SECONDS, unfinished_seconds) if _is_whole(part, note) else unfinished_seconds
            if age > limit and _removed(part, note):
                gone.append(part)
        except FileNotFoundError:  # its client was faster
            continue
    return gone


def expire_staging(folder: Path) -> list[Path]:
    """Remove the folders of readers that were killed a day ago; returns them."""
    old = [path for path in sorted(folder.glob(".staging-*")) if time.time() - path.stat().st_mtime > _DAY_SECONDS]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return old


def _is_whole(part: Path, note: Path) -> bool:
    try:
        return bool(json.loads(note.read_text())["size_bytes"] == part.stat().st_size)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _removed(part: Path, note: Path) -> bool:
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a slow client
            return False
        note.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return True
