"""Real servers for tests: one nats-server and one Postgres a session, a fresh database and fresh streams a test."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import nats
import pytest
import pytest_asyncio
from nats.js import JetStreamContext

from ltp.bus.streams import STREAMS, ensure_streams
from ltp.store.schema import migrate
from ltp.up.postgres import SUPERUSER, Cluster
from ltp.up.privileges import server_account
from ltp.up.servers import nats_binary
from ltp.up.state import DataDir, prepare, read_or_make_secret

_DEADLINE_SECONDS = 30.0
_TEMPLATE = "template_ltp"


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition with a deadline; `condition` may be async."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nats-server with JetStream."""
    port, monitor = free_port(), free_port()
    store = tmp_path_factory.mktemp("nats")
    argv = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor), "-js", "-sd", str(store)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(process, lambda: _answers(f"http://127.0.0.1:{monitor}/healthz?js-enabled-only=true"))
    yield f"nats://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Postgres with a migrated template database: (host:port, superuser password)."""
    data = DataDir(tmp_path_factory.mktemp("postgres"))
    prepare(data)
    password = read_or_make_secret(data.secret("superuser"))
    account = server_account(signal.SIGINT)
    cluster = Cluster(data.postgres, account, data.secret("superuser"), "unused", os.environ, data.log("postgres"))
    asyncio.run(cluster.prepare())
    port = free_port()
    with data.log("postgres").open("ab") as log:
        argv = [*cluster.argv(port), "-c", "fsync=off"]
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/")
    place = f"127.0.0.1:{port}"
    _wait(process, lambda: asyncio.run(_reachable(place, password)))
    asyncio.run(_create(place, password, _TEMPLATE, None))
    migrate(f"postgresql+asyncpg://{SUPERUSER}:{password}@{place}/{_TEMPLATE}")
    yield place, password
    process.send_signal(signal.SIGINT)
    process.wait(20)


@pytest.fixture
def database_url(postgres: tuple[str, str]) -> str:
    """A fresh database with all tables, cloned from the template."""
    return asyncio.run(new_database(postgres, _TEMPLATE))


async def new_database(postgres: tuple[str, str], template: str | None) -> str:
    """The URL of a new database: a clone of a template, or empty."""
    place, password = postgres
    name = f"test_{uuid.uuid4().hex}"
    await _create(place, password, name, template)
    return f"postgresql+asyncpg://{SUPERUSER}:{password}@{place}/{name}"


@pytest_asyncio.fixture
async def js(nats_url: str) -> AsyncIterator[JetStreamContext]:
    """JetStream with our streams, empty."""
    client = await nats.connect(nats_url)
    js = client.jetstream()
    for stream in STREAMS:
        try:
            await js.delete_stream(stream.name or "")
        except nats.js.errors.NotFoundError:
            pass
    await ensure_streams(js)
    yield js
    await client.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory for services under test."""
    return tmp_path / "data"


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not ready():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} did not become ready"
        time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


async def _reachable(place: str, password: str) -> bool:
    try:
        connection = await asyncpg.connect(f"postgresql://{SUPERUSER}:{password}@{place}/postgres", timeout=2)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def _create(place: str, password: str, name: str, template: str | None) -> None:
    connection = await asyncpg.connect(f"postgresql://{SUPERUSER}:{password}@{place}/postgres")
    await connection.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    await connection.close()
