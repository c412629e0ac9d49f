"""Which weights are safely on the disk, so that a merge that was killed goes on where it was.

A line is written only after its weights were flushed, so that it holds after a power cut too. Flushing while the merge goes on
also keeps the disk busy from the start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

_EVERY_SECONDS = 1.0


class Journal:
    """The journal of one result in the making."""

    def __init__(self, path: Path, digest: str, descriptors: Sequence[int]) -> None:
        self._path, self._descriptors = path, descriptors
        self.done = _read(path, digest)
        self._fresh: list[str] = []
        self._lock, self._over = Lock(), Event()
        self._failure: OSError | None = None
        new = not self.done
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if new else os.O_APPEND), 0o644)
        if new:
            os.write(self._file, json.dumps({"digest": digest}).encode() + b"\n")
        elif not path.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")
        self._thread = Thread(target=self._run, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            if self._failure is None:
                self._flush()
        finally:
            os.close(self._file)
        if self._failure is not None:
            raise self._failure

    def note(self, name: str) -> None:
        """A weight was written as a whole."""
        with self._lock:
            self._fresh.append(name)

    def _run(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            try:
                self._flush()
            except OSError as error:
                self._failure = error
                return

    def _flush(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        for descriptor in self._descriptors:
            os.fdatasync(descriptor)
        os.write(self._file, json.dumps({"done": fresh}).encode() + b"\n")
        os.fdatasync(self._file)


def _read(path: Path, digest: str) -> set[str]:
    """Names of finished weights; none when the journal is another operation's or its beginning was never written."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return set()
    done: set[str] = set()
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            # A line that was cut off says nothing.
            continue
        if number == 0 and entry.get("digest") != digest:
            return set()
        done |= set(entry.get("done", []))
    return done
