"""Getting files onto the disk: what makes a result outlast a power cut, begun early so that little is left to wait for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

_EVERY_SECONDS = 1.0


def flush(*paths: Path) -> None:
    """Return when these files and directories are on the disk. Raises OSError."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing_back(directory: Path) -> Iterator[None]:
    """Keep the disk busy with what is written into a directory meanwhile. Promises nothing: that is `flush`'s."""
    over = Event()

    def run() -> None:
        while not over.wait(_EVERY_SECONDS):
            try:
                flush(*directory.iterdir())
            except OSError:
                # A file that went away, or a disk that fails: `flush` will say so.
                continue

    thread = Thread(target=run, name="write-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
