"""The gateway is killed while points and events flow: clients come back, and have each of them once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import websockets

from tests.chaos.following import follow_stream, insist, made_tokens
from tests.conftest import new_database
from tests.service.gateway.conftest import Door, open_door

pytestmark = pytest.mark.slow

_BATCHES, _STEPS, _KILLS, _FOLLOWERS = 120, 50, 3, 10


async def _push(door: Door, tokens: list[str]) -> None:
    """Batches one after the other, each until it is answered; beside every tenth a token, which is an event."""
    headers = {"Authorization": f"Bearer {door.admin}"}
    async with httpx.AsyncClient(base_url=f"{door.url}/api/v1", headers=headers, timeout=10) as client:
        for batch in range(_BATCHES):
            steps = range(batch * _STEPS, (batch + 1) * _STEPS)
            readings = [{"step": step, "values": {"loss": 1.0}} for step in steps]
            answer = await insist(client, "/metrics", f"b-{batch}", {"run": "killed", "readings": readings})
            assert answer.status_code in {200, 409}, answer.text
            if batch % 10 == 0:
                made = await insist(client, "/tokens", f"t-{batch}", {"name": f"killed-{batch}", "role": "service"})
                # 409: it was made, and its answer was lost in the kill.
                assert made.status_code in {201, 409}, made.text
                tokens.append(f"killed-{batch}")


async def _socket(door: Door, found: list[object], enough: asyncio.Event) -> None:
    last, address = 0, door.url.replace("http", "ws", 1) + "/api/v1/events/ws"
    headers = {"Authorization": f"Bearer {door.admin}"}
    while not enough.is_set():
        try:
            async with websockets.connect(address, additional_headers=headers) as client:
                await client.send(json.dumps({"id": "a", "topic": "points", "run": "killed", "after": last}))
                async for text in client:
                    line = json.loads(text)
                    found += line["data"]["points"]
                    last = line["seq"]
        except (OSError, websockets.WebSocketException):
            await asyncio.sleep(0.1)


async def test_every_point_and_event_is_had_once(nats_url: str, postgres: tuple[str, str], tmp_path: Path) -> None:
    door = await asyncio.to_thread(open_door, nats_url, await new_database(postgres, "template_ltp"), tmp_path)
    enough, tokens = asyncio.Event(), list[str]()
    had: list[list[object]] = [[] for _ in range(_FOLLOWERS)]
    events: list[object] = []
    tasks = [
        asyncio.create_task(
            follow_stream(door.url, door.admin, "/metrics/killed/stream", "points", each, enough)
            if n % 2
            else _socket(door, each, enough)
        )
        for n, each in enumerate(had)
    ]
    tasks.append(asyncio.create_task(follow_stream(door.url, door.admin, "/events/stream", "-", events, enough)))
    pushing = asyncio.create_task(_push(door, tokens))
    wanted = _BATCHES * _STEPS
    for kill in range(1, _KILLS + 1):
        while len(had[0]) < kill * wanted // (_KILLS + 1):
            assert not pushing.done() or pushing.exception() is None
            await asyncio.sleep(0.02)
        door.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(door.process.wait)
        await asyncio.to_thread(door.start)
    await pushing
    deadline = time.monotonic() + 120
    while any(len(each) < wanted for each in had) or len(made_tokens(events)) < len(tokens):
        assert time.monotonic() < deadline, ([len(each) for each in had], len(made_tokens(events)))
        await asyncio.sleep(0.1)
    enough.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    door.process.terminate()
    door.process.wait(30)
    for each in had:
        assert Counter(point["step"] for point in each) == Counter(range(wanted))  # type: ignore[index]
    assert max(Counter(event["event_id"] for event in events).values()) == 1  # type: ignore[index]
    assert len(made_tokens(events)) == len(tokens)
