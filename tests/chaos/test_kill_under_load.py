"""Gateway, NATS and Postgres are killed while 10,000 points a second come in and 500 clients follow: each has all of it once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bench.gateway.pushing import push
from tests.chaos.following import follow_stream, insist, made_tokens
from tests.conftest import free_port, until
from tests.e2e.platform import Platform

pytestmark = pytest.mark.slow

_RUNS, _EACH, _SECONDS, _STREAMS, _SOCKETS = 100, 100, 40, 450, 50
_KILLED = ("gateway", "nats", "postgres")
_EVERY_SECONDS = 10.0


async def test_each_point_and_event_is_had_once_whatever_is_killed(tmp_path: Path) -> None:
    platform, port = Platform(tmp_path / "data"), free_port()
    await asyncio.to_thread(platform.ltp, "up", "--detach", "--port", str(port), seconds=180)
    try:
        url, token = f"http://127.0.0.1:{port}", (platform.data / "secrets" / "token").read_text().strip()
        with _followers(url, token, tmp_path / "told") as told:
            await _under_load(platform, url, token, told)
        log = (platform.data / "logs" / "gateway.log").read_text()
        assert "unexpectedly" not in log, [line for line in log.splitlines() if "unexpectedly" in line][:3]
    finally:
        await asyncio.to_thread(platform.ltp, "down", check=False)


async def _under_load(platform: Platform, url: str, token: str, told: Path) -> None:
    events: list[Any] = []
    names: list[str] = []
    enough = asyncio.Event()
    following = asyncio.create_task(follow_stream(url, token, "/events/stream", "-", events, enough))
    saying = asyncio.create_task(_make_tokens(url, token, names, enough))
    pushing = asyncio.create_task(push(url, token, _RUNS, _EACH, _SECONDS))
    for name in _KILLED:
        # In the middle of the load, wherever that is just then.
        await asyncio.sleep(_EVERY_SECONDS)
        os.kill(await asyncio.to_thread(platform.pid_of, name), signal.SIGKILL)
    assert not pushing.done()
    sent, _ = await pushing
    enough.set()
    await saying
    assert sent == _RUNS * _EACH * _SECONDS
    await until(lambda: min(_last(told)["points"]) >= _EACH * _SECONDS and len(made_tokens(events)) >= len(names), 120)
    following.cancel()
    found = _last(told)
    assert (set(found["points"]), found["doubled"]) == ({_EACH * _SECONDS}, 0)
    assert max(Counter(event["event_id"] for event in events).values()) == 1
    assert len(made_tokens(events)) == len(names)


async def _make_tokens(url: str, token: str, names: list[str], enough: asyncio.Event) -> None:
    """Things of which an event tells, over NATS, one after the other."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=10) as client:
        while not enough.is_set():
            name = f"killed-{len(names)}"
            answer = await insist(client, "/tokens", name, {"name": name, "role": "service"})
            # 409: it was made, and its answer was lost in a kill.
            assert answer.status_code in {201, 409}, answer.text
            names.append(name)
            await asyncio.sleep(0.5)


@contextmanager
def _followers(url: str, token: str, told: Path) -> Iterator[Path]:
    argv = [sys.executable, "-m", "tests.bench.gateway.followers", url, token]
    with told.open("wb") as out:
        process = subprocess.Popen([*argv, *(str(n) for n in (_RUNS, _STREAMS, _SOCKETS))], stdout=out)
    try:
        yield told
    finally:
        process.terminate()
        process.wait(20)


def _last(told: Path) -> dict[str, Any]:
    """What the followers said last."""
    lines = [line for line in told.read_text().splitlines(True) if line.endswith("\n")]
    return json.loads(lines[-1]) if lines else {"points": [0], "doubled": 0}
