"""Streams are counted: who would open one too many is told so, and a place is free as soon as somebody leaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
import websockets

from tests.conftest import new_database, until
from tests.service.gateway.conftest import Door, open_door

OF_ONE, IN_ALL = 3, 5


@pytest.fixture(scope="module")
def narrow(nats_url: str, postgres: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    url = asyncio.run(new_database(postgres, "template_ltp"))
    limits = {"LTP_GATEWAY_STREAMS_PER_TOKEN": str(OF_ONE), "LTP_GATEWAY_STREAMS": str(IN_ALL)}
    door = open_door(nats_url, url, tmp_path_factory.mktemp("narrow"), **limits)
    yield door
    door.process.terminate()
    door.process.wait(20)


def open_now(door: Door) -> float:
    text = httpx.get(f"{door.url}/metrics", headers={"Authorization": f"Bearer {door.admin}"}).text
    return sum(float(value) for value in re.findall(r"^ltp_streams_open\{.*\} (\S+)$", text, re.MULTILINE))


def refused(door: Door, most_of: str) -> float:
    text = httpx.get(f"{door.url}/metrics", headers={"Authorization": f"Bearer {door.admin}"}).text
    found = re.findall(rf'^ltp_streams_refused_total\{{most_of="{most_of}"\}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


async def follow(door: Door, token: str, held: AsyncExitStack) -> httpx.Response:
    """Open a stream of server-sent events and keep it."""
    client = await held.enter_async_context(httpx.AsyncClient(timeout=20))
    url, headers = f"{door.url}/api/v1/events/stream", {"Authorization": f"Bearer {token}"}
    return await held.enter_async_context(client.stream("GET", url, headers=headers))


async def test_one_token_and_all_together_have_a_limit(narrow: Door) -> None:
    first, second = narrow.token("user", "a"), narrow.token("user", "b")
    socket_url = narrow.url.replace("http", "ws") + "/api/v1/events/ws"
    async with AsyncExitStack() as held, AsyncExitStack() as one:
        for _ in range(OF_ONE - 1):
            assert (await follow(narrow, first, held)).status_code == 200
        headers = {"Authorization": f"Bearer {first}"}
        await one.enter_async_context(websockets.connect(socket_url, additional_headers=headers))
        await until(lambda: open_now(narrow) == OF_ONE)
        full = await follow(narrow, first, held)
        problem = (await full.aread()) and full.json()
        assert full.status_code == 429 and int(full.headers["Retry-After"]) >= 1, problem
        assert full.headers["content-type"].startswith("application/problem+json")
        assert problem["code"] == "rate_limited" and f"{OF_ONE} is the most" in problem["detail"]
        for subprotocols in (None, ["bearer", first]):
            more = {"additional_headers": headers} if subprotocols is None else {}
            async with websockets.connect(socket_url, subprotocols=subprotocols, **more) as socket:  # type: ignore[arg-type]
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
        # Another token has places of its own, until the gateway has none.
        for _ in range(IN_ALL - OF_ONE):
            assert (await follow(narrow, second, held)).status_code == 200
        await until(lambda: open_now(narrow) == IN_ALL)
        assert (await follow(narrow, second, held)).status_code == 429
        assert (refused(narrow, "token"), refused(narrow, "gateway")) == (3, 1)
        # What is no stream is let in all the same.
        assert narrow.by(first).get("/events").status_code == 200
        await one.aclose()
        await until(lambda: open_now(narrow) == IN_ALL - 1)
        assert (await follow(narrow, second, held)).status_code == 200
    await until(lambda: open_now(narrow) == 0)


async def test_a_stream_that_is_refused_holds_no_place(narrow: Door) -> None:
    token = narrow.token("user", "c")
    async with AsyncExitStack() as held:
        for _ in range(2 * OF_ONE):
            answer = await follow(narrow, "ltp_00000000_wrong", held)
            assert answer.status_code == 401
        for _ in range(OF_ONE):
            assert (await follow(narrow, token, held)).status_code == 200
    await until(lambda: open_now(narrow) == 0)
