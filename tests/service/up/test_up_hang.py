"""A process that lives and says nothing is ended and started anew; one that says that it is not ready is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ltp.up import keeper, probe
from ltp.up.keeper import Keeper
from ltp.up.process import ProcessSpec
from tests.conftest import free_port, until

SERVER = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if pathlib.Path(sys.argv[2]).exists() else 200)
        self.end_headers()
        pathlib.Path(sys.argv[2] + ".asked").open("a").write("x")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(keeper, "SILENT_PROBES", 3)
    monkeypatch.setattr(probe, "SILENCE_SECONDS", 0.5)


@asynccontextmanager
async def kept(place: Path) -> AsyncIterator[Keeper]:
    port = free_port()
    argv = (sys.executable, "-S", "-c", SERVER, str(port), str(place / "unready"))
    url = f"http://127.0.0.1:{port}/readyz"
    kept = Keeper(ProcessSpec("server", argv, os.environ, place / "log", port, url), lambda: None)
    task = asyncio.create_task(kept.keep())
    try:
        await asyncio.wait_for(kept.ready.wait(), 20)
        yield kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kept.stop()


async def test_a_process_that_hangs_is_started_anew(tmp_path: Path, impatient: None) -> None:
    async with kept(tmp_path) as server:
        first = server.record.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: server.record.restarts == 1 and server.record.state == "ready")
        assert server.record.pid != first


async def test_a_process_that_says_it_is_not_ready_is_left_alone(tmp_path: Path, impatient: None) -> None:
    async with kept(tmp_path) as server:
        first, asked = server.record.pid, tmp_path / "unready.asked"
        (tmp_path / "unready").touch()
        # It notes a question after it has answered it.
        await until(asked.exists)
        before = asked.stat().st_size
        await until(lambda: asked.stat().st_size > before + 10)
        assert (server.record.pid, server.record.restarts) == (first, 0)
