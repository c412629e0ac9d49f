"""Clients that follow and read nothing: they are hung up on, nobody waits for them, and they cost no memory."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import websockets

from tests.conftest import new_database
from tests.service.gateway.conftest import Door, open_door
from tests.service.gateway.test_live import push

_SLOW_SECONDS = 2.0
_EACH, _BATCHES, _STEPS = 10, 12, 2000


@pytest.fixture(scope="module")
def strict(nats_url: str, postgres: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway of little patience."""
    url = asyncio.run(new_database(postgres, "template_ltp"))
    door = open_door(
        nats_url, url, tmp_path_factory.mktemp("strict"), LTP_GATEWAY_SLOW_SECONDS=str(_SLOW_SECONDS)
    )  # fmt: skip
    yield door
    door.process.terminate()
    door.process.wait(20)


def _connect(door: Door) -> socket.socket:
    place = urlsplit(door.url)
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.settimeout(20)
    found.connect((place.hostname, place.port))
    return found


def deaf_stream(door: Door, run: str) -> socket.socket:
    """Asks for a stream and reads no more."""
    found = _connect(door)
    head = f"GET /api/v1/metrics/{run}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.admin}\r\n\r\n"
    found.sendall(head.encode())
    assert found.recv(20).startswith(b"HTTP/1.1 200")
    return found


def deaf_socket(door: Door, run: str) -> socket.socket:
    """The same over a WebSocket."""
    found = _connect(door)
    key = base64.b64encode(os.urandom(16)).decode()
    head = "GET /api/v1/events/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    found.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {door.admin}\r\n\r\n".encode())
    assert b"101" in found.recv(20)
    wish = json.dumps({"id": "a", "topic": "points", "run": run}).encode()
    assert len(wish) < 126
    # One masked text frame; a mask of zeros changes nothing.
    found.sendall(bytes([0x81, 0x80 | len(wish)]) + bytes(4) + wish)
    return found


def connections(door: Door) -> int:
    """How many the gateway has on its port."""
    port = urlsplit(door.url).port
    found = psutil.Process(door.process.pid).net_connections("tcp")
    return sum(1 for one in found if one.laddr.port == port and one.status != psutil.CONN_LISTEN)


async def listen(door: Door, run: str, wanted: int, took: list[float]) -> None:
    """A good follower over each way; notes how long it waited for all."""
    began = time.monotonic()

    async def by_stream() -> None:
        count, headers = 0, {"Authorization": f"Bearer {door.admin}"}
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("GET", f"{door.url}/api/v1/metrics/{run}/stream", headers=headers) as answer,
        ):
            async for line in answer.aiter_lines():
                count += line.count('"step":')
                if count == wanted:
                    return

    async def by_socket() -> None:
        headers = {"Authorization": f"Bearer {door.admin}"}
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with websockets.connect(url, additional_headers=headers) as found:
            await found.send(json.dumps({"id": "a", "topic": "points", "run": run}))
            count = 0
            while count < wanted:
                line = json.loads(await asyncio.wait_for(found.recv(), 60))
                count += len(line["data"]["points"])

    await asyncio.gather(by_stream(), by_socket())
    took.append(time.monotonic() - began)


async def test_who_reads_nothing_is_dropped_and_nobody_waits_for_it(strict: Door) -> None:
    gateway = psutil.Process(strict.process.pid)
    push(strict, "deaf", range(10))
    alone: list[float] = []
    await listen(strict, "deaf", 10, alone)
    idle = connections(strict)
    deaf = [make(strict, "deaf") for make in (deaf_stream, deaf_socket) for _ in range(_EACH)]
    before = gateway.memory_info().rss
    took: list[float] = []
    good = asyncio.create_task(listen(strict, "deaf", 10 + _BATCHES * _STEPS, took))
    for batch in range(_BATCHES):
        first = 10 + batch * _STEPS
        await asyncio.to_thread(push, strict, "deaf", range(first, first + _STEPS))
    await asyncio.wait_for(good, 60)
    deadline = time.monotonic() + 10 * _SLOW_SECONDS
    while connections(strict) > idle:
        assert time.monotonic() < deadline, f"{connections(strict) - idle} of {len(deaf)} are still connected"
        await asyncio.sleep(0.1)
    grown = (gateway.memory_info().rss - before) / 2**20
    assert grown < 80, f"{grown:.0f} MiB more"
    assert took[0] < 60
    assert "Traceback" not in strict.log.read_text()
    for one in deaf:
        one.close()


async def test_it_ends_at_once_while_many_follow_and_push(strict: Door) -> None:
    ended = asyncio.Event()

    async def follow() -> None:
        headers = {"Authorization": f"Bearer {strict.admin}"}
        async with httpx.AsyncClient(timeout=60) as client:
            try:
                async with client.stream("GET", f"{strict.url}/api/v1/metrics/end/stream", headers=headers) as answer:
                    async for _ in answer.aiter_lines():
                        pass
            except httpx.TransportError:
                pass

    def press() -> None:
        step = 0
        while not ended.is_set():
            try:
                push(strict, "end", range(step, step + 200))
            except (httpx.TransportError, AssertionError):
                return
            step += 200

    push(strict, "end", range(10))
    deaf = [make(strict, "deaf") for make in (deaf_stream, deaf_socket) for _ in range(5)]
    followers = [asyncio.create_task(follow()) for _ in range(60)]
    pushing = asyncio.create_task(asyncio.to_thread(press))
    deadline = time.monotonic() + 30
    while connections(strict) < 60:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    began = time.monotonic()
    strict.process.terminate()
    try:
        code = await asyncio.to_thread(strict.process.wait, 20)
    finally:
        ended.set()
        await asyncio.gather(pushing, *followers, return_exceptions=True)
        for one in deaf:
            one.close()
    assert code == 0 and time.monotonic() - began < 20
    strict.start()
    assert strict.root.get("/metrics/end").status_code == 200
