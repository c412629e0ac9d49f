"""The servers and peers of the dispatch benchmark: Postgres and Redis that sync each commit, Celery in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from ltp.store.schema import migrate
from ltp.up.postgres import SUPERUSER, Cluster
from ltp.up.privileges import server_account
from ltp.up.state import DataDir, prepare, read_or_make_secret

CACHE = Path("~/.cache/ltp-bench/dispatch").expanduser()
CELERY = "celery[redis]==5.7.0"
_DEADLINE_SECONDS = 60.0


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds. Raises TimeoutError after a minute."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Whether a URL answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def process(argv: list[str], number: int = signal.SIGTERM, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of the block."""
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        started.send_signal(number)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def postgres(place: Path) -> Iterator[tuple[str, int]]:
    """A migrated Postgres as `ltp up` runs it, fsync and synchronous_commit on: (URL, pid)."""
    data = DataDir(place)
    prepare(data)
    password = read_or_make_secret(data.secret("superuser"))
    account = server_account(signal.SIGINT)
    cluster = Cluster(data.postgres, account, data.secret("superuser"), "unused", os.environ, data.log("postgres"))
    asyncio.run(cluster.prepare())
    port = free_port()
    url = f"//{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"
    with process(list(cluster.argv(port)), signal.SIGINT, cwd="/") as server:
        wait_for(lambda: asyncio.run(_reachable(f"postgresql:{url}")), "Postgres")
        migrate(f"postgresql+asyncpg:{url}")
        yield f"postgresql+asyncpg:{url}", server.pid


async def _reachable(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=2)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


@contextmanager
def redis(place: Path) -> Iterator[tuple[str, int]]:
    """Debian's Redis that syncs its log with each command: (URL, pid)."""
    root = _redis_root()
    port = free_port()
    place.mkdir(parents=True, exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "always"]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(str(p) for p in root.glob("usr/lib/*-linux-gnu"))}
    with process([str(root / "usr/bin/redis-server"), *options], env=environment) as server:
        wait_for(lambda: _accepts(port), "Redis")
        yield f"redis://127.0.0.1:{port}/0", server.pid


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _redis_root() -> Path:
    """Debian's packages unpacked beside the peer's environment; nothing is installed on the machine."""
    root = CACHE / "redis" / "root"
    if not (root / "usr/bin/redis-server").exists():
        draft = CACHE / "redis.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        packages = ["redis-server", "redis-tools", "liblzf1", "libjemalloc2"]
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=draft, check=True, capture_output=True)
        for package in draft.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(draft / "root")], check=True)
        shutil.rmtree(CACHE / "redis", ignore_errors=True)
        draft.rename(CACHE / "redis")
    return root


def celery_python() -> Path:
    """The interpreter of the peer's environment, made when it is not there."""
    python = CACHE / "venv" / "bin" / "python"
    if not (CACHE / "venv" / "bin" / "celery").exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", CELERY], check=True, capture_output=True)
    return python
