"""Which weights are written, so that a merge that was killed goes on where it was.

What a process wrote outlives the process, however that ends, but not a crash of the machine: so a journal counts within one
boot of it, and nothing needs to wait for the disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Self

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STATISTICS = Path("/proc/stat")


class Journal:
    """The journal of one result in the making."""

    def __init__(self, path: Path, digest: str) -> None:
        first = json.dumps({"digest": digest, "boot": _boot()})
        self.done = _read(path, first)
        begin = 0 if self.done else os.O_TRUNC
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | begin, 0o644)
        # Ends a line that was cut off, or the first one.
        os.write(self._file, b"\n" if self.done else first.encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def note(self, name: str) -> None:
        """A weight was written as a whole. One call to the system, which threads need no lock for."""
        os.write(self._file, json.dumps(name).encode() + b"\n")


def _boot() -> str:
    """What tells one start of this machine from the next: its id, or where a sandbox has none the second it began."""
    try:
        return _BOOT.read_text().strip()
    except FileNotFoundError:
        return next(line for line in _STATISTICS.read_text().splitlines() if line.startswith("btime "))


def _read(path: Path, first: str) -> set[str]:
    """Names of finished weights; none when the journal is another operation's, or from before the machine started."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return set()
    done: set[str] = set()
    for line in lines[1:] if lines[:1] == [first] else ():
        try:
            done.add(json.loads(line))
        except ValueError:
            # Cut off, or empty: it says nothing.
            continue
    return done
