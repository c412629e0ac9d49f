"""The data directory: where everything lies, who may use it, and the lock that lets one platform run on it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.private_file import write_private
from ltp.up.record import RunRecord, read_record

MIN_FREE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class DataDir:
    """The layout of a data directory; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: Path | None) -> DataDir:
        """Take the path given, or LTP_DATA_DIR, or ~/.ltp."""
        return cls((path or Path(os.environ.get("LTP_DATA_DIR") or "~/.ltp")).expanduser().resolve())

    @property
    def run_file(self) -> Path:
        """The record of what runs now."""
        return self.root / "run.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the supervisor for as long as it lives."""
        return self.root / "lock"

    @property
    def runs(self) -> Path:
        """The training runs of this host, owned by their launchers."""
        return self.root / "runs"

    @property
    def nats(self) -> Path:
        """The store of JetStream."""
        return self.root / "nats"

    @property
    def bus(self) -> Path:
        """The users of NATS."""
        return self.root / "bus"

    @property
    def postgres(self) -> Path:
        """The Postgres cluster."""
        return self.root / "pg"

    @property
    def milvus(self) -> Path:
        """The collections of Milvus Lite."""
        return self.root / "milvus"

    def log(self, name: str) -> Path:
        """The file that takes what a process prints."""
        return self.root / "logs" / f"{name}.log"

    def secret(self, name: str) -> Path:
        """A file of mode 0600."""
        return self.root / "secrets" / name

    def read_record(self) -> RunRecord | None:
        """Return what the last supervisor recorded, whether or not it still lives."""
        return read_record(self.run_file)

    def running(self) -> RunRecord | None:
        """Return the record of the supervisor that runs now."""
        record = self.read_record()
        return record if record and record.alive else None


def prepare(data: DataDir) -> None:
    """Make the directories and prove that files can be written in them."""
    try:
        for path in (data.root, data.root / "logs", data.root / "secrets"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(data, 0) from error
        raise LtpError(
            ErrorCode.DATA_DIR_UNWRITABLE,
            f"The data directory {data.root} cannot be written: {error.strerror or error}.",
            "Give another one with --data-dir or LTP_DATA_DIR, or change its owner.",
        ) from error


def require_free_space(data: DataDir) -> None:
    """Refuse to start where the servers would soon fail to write."""
    free = shutil.disk_usage(data.root).free
    if free < MIN_FREE_BYTES:
        raise disk_full(data, free)


def disk_full(data: DataDir, free_bytes: int) -> LtpError:
    """Say how much room there is and how much is needed."""
    return LtpError(
        ErrorCode.DISK_FULL,
        f"The disk of {data.root} has {free_bytes // 2**20} MB free; {MIN_FREE_BYTES // 2**20} MB are needed to start.",
        "Free some space, or give a data directory on another disk with --data-dir.",
    )


@contextmanager
def claim(data: DataDir) -> Generator[None]:
    """Hold the directory; the kernel lets go of it however this process ends."""
    descriptor = os.open(data.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(data) from error
        yield
    finally:
        os.close(descriptor)


def _in_use(data: DataDir) -> LtpError:
    record = data.running()
    by = (
        f"pid {record.pid}, gateway {record.urls['gateway']}" if record else "a supervisor that is starting or stopping"
    )
    return LtpError(
        ErrorCode.DATA_DIR_IN_USE,
        f"The platform already runs on {data.root} ({by}).",
        "Use it, stop it with `ltp down`, or give another --data-dir.",
    )


def read_or_make_secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
    """Return the secret kept in a file of mode 0600, made at first use."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        value = make()
    write_private(path, value + "\n")  # Postgres will know this password durably; so must the file
    return value
