"""Streams: what was pushed is followed, resumed and counted once; a WebSocket shows the same."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.service.gateway.conftest import Door

DOCS = Path(__file__).resolve().parents[3] / "docs"


async def _stream(door: Door, path: str, wanted: int, last: str | None = None) -> list[tuple[str, dict[str, object]]]:
    headers = {"Authorization": f"Bearer {door.admin}"} | ({"Last-Event-ID": last} if last else {})
    found: list[tuple[str, dict[str, object]]] = []
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("GET", door.url + path, headers=headers) as answer,
    ):
        key = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                key = line[4:]
            elif line.startswith("data: ") and key:
                found += [(key, point) for point in json.loads(line[6:])["points"]]
                if len(found) >= wanted:
                    return found
    return found


def push(door: Door, run: str, steps: range) -> dict[str, int]:
    readings = [{"step": step, "values": {"loss": 1.0 / (step + 1)}} for step in steps]
    answer = door.root.post("/metrics", json={"run": run, "readings": readings})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_batch_sent_twice_counts_once_and_a_follower_resumes(door: Door) -> None:
    assert push(door, "live-1", range(10)) == {"accepted": 10, "known": 0}
    assert push(door, "live-1", range(12)) == {"accepted": 2, "known": 10}
    path = "/api/v1/metrics/live-1/stream"
    first = asyncio.run(_stream(door, path, 12))
    assert [point["step"] for _, point in first] == list(range(12))
    push(door, "live-1", range(12, 15))
    rest = asyncio.run(_stream(door, path, 3, last=first[-1][0]))
    assert [point["step"] for _, point in rest] == [12, 13, 14]
    assert [p["step"] for p in door.root.get("/metrics/live-1").json()["points"]] == list(range(15))
    other = door.by(door.token("service", "elsewhere"))
    assert other.get("/metrics/live-1").json()["points"] == []


def test_a_websocket_follows_points(door: Door) -> None:
    push(door, "live-2", range(3))

    async def follow() -> list[int]:
        headers = {"Authorization": f"Bearer {door.admin}"}
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with websockets.connect(url, additional_headers=headers) as socket:
            await socket.send(json.dumps({"id": "a", "topic": "points", "run": "live-2"}))
            steps: list[int] = []
            while len(steps) < 3:
                line = json.loads(await asyncio.wait_for(socket.recv(), 20))
                steps += [point["step"] for point in line["data"]["points"]]
            return steps

    assert asyncio.run(follow()) == [0, 1, 2]


def test_the_documented_messages_are_what_is_said(door: Door) -> None:
    """The blocks of `docs/api.md`, "Live", sent to a gateway, and what it answers laid beside them."""
    page = (DOCS / "api.md").read_text()
    page = page[page.index("## Live") : page.index("## Metrics from anywhere")]
    shown = json.loads(page[page.index("data: ") + 6 :].partition("\n")[0])["points"]
    asked = [json.loads(line) for line in re.findall(r"^{.*}$", page, re.MULTILINE)]
    assert [sorted(wish) for wish in asked if wish["id"] == "b"] == [["after", "id", "run", "topic"]]
    for point in shown:
        reading = {"step": point["step"], "values": {point["key"]: point["value"]}, "at": point["at"]}
        door.root.post("/metrics", json={"run": "exp-7", "readings": [reading]}).raise_for_status()

    async def talk() -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {door.admin}"}
        found: list[dict[str, Any]] = []
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with websockets.connect(url, additional_headers=headers) as socket:
            for wish in asked:
                await socket.send(json.dumps(wish))
            while sum(len(one["data"]["points"]) for one in found if one["id"] == "b") < len(shown):
                found.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
        return [one for one in found if one["id"] == "b"]

    said = asyncio.run(talk())
    assert {tuple(sorted(message)) for message in said} == {("data", "id", "seq")}
    told = [point for message in said for point in message["data"]["points"]]
    assert said[-1]["seq"] == told[-1]["seq"]
    assert [{**point, "seq": 0} for point in told] == [{**point, "seq": 0} for point in shown]
    (event, *_) = asyncio.run(_stream(door, "/api/v1/metrics/exp-7/stream", 2))
    assert list(event[1]) == list(shown[0])


def test_the_example_follower_has_every_point_once(door: Door) -> None:
    push(door, "live-4", range(3))
    environment = {"PATH": os.environ["PATH"], "LTP_URL": door.url, "LTP_TOKEN": door.admin}
    command = [sys.executable, str(DOCS / "examples" / "follower.py"), "live-4", "7"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        steps = [json.loads(process.stdout.readline())["step"] for _ in range(3)]
        push(door, "live-4", range(2, 7))
        steps += [json.loads(line)["step"] for line in process.stdout]
    assert process.returncode == 0 and steps == list(range(7))


def test_streams_end_with_the_token_that_opened_them(door: Door) -> None:
    push(door, "live-3", range(3))

    async def end(door: Door) -> None:
        made = door.root.post("/tokens", json={"name": "leaving", "role": "user"}).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("GET", door.url + "/api/v1/metrics/live-3/stream", headers=headers) as stream,
            websockets.connect(url, additional_headers=headers) as socket,
        ):
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            await socket.send(json.dumps({"id": "a", "topic": "points", "run": "live-3"}))
            await asyncio.wait_for(socket.recv(), 20)
            door.root.delete(f"/tokens/{made['token_id']}").raise_for_status()
            async for line in lines:
                assert "event: end" not in line  # That would say that nothing more will come for anybody.
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 20)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008

    asyncio.run(end(door))


def test_a_websocket_shows_no_more_than_the_scopes_of_its_token(door: Door) -> None:
    headers = {"Authorization": f"Bearer {door.token('user', 'default', scopes=['events:read'])}"}

    async def ask() -> list[str]:
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with websockets.connect(url, additional_headers=headers) as socket:
            found: list[str] = []
            for topic in ("points", "metrics"):
                await socket.send(json.dumps({"id": "a", "topic": topic, "run": "live-2"}))
                found.append(json.loads(await asyncio.wait_for(socket.recv(), 20))["error"])
            return found

    assert asyncio.run(ask()) == ["forbidden", "forbidden"]


def test_a_trainer_reports_in_kubeflows_words(door: Door) -> None:
    status = {
        "progressPercentage": 40,
        "metrics": [{"name": "loss", "value": "2.5"}, {"name": "current_step", "value": "4"}],
    }
    answer = door.root.post("/kubeflow/hf-1", json={"trainerStatus": status})
    assert answer.status_code == 200, answer.text
    points = door.root.get("/metrics/hf-1").json()["points"]
    assert {p["key"]: p["value"] for p in points}["loss"] == 2.5 and {p["step"] for p in points} == {4}


def test_a_stream_writes_points_as_the_page_of_them_does(door: Door) -> None:
    readings = (
        '[{"step": 0, "values": {"loss": NaN, "a \\"b\\"": -Infinity}, "at": "2026-01-02T03:04:05.5+02:00"},'
        ' {"step": 1, "values": {"loss": 1e-7}, "at": "2026-01-02T03:04:05Z"}]'
    )
    body = f'{{"run": "live-nan", "worker": "w\\u00e4", "readings": {readings}}}'
    door.root.post("/metrics", content=body, headers={"Content-Type": "application/json"}).raise_for_status()
    (page,) = [door.root.get("/metrics/live-nan").json()["points"]]

    async def follow() -> list[dict[str, object]]:
        headers = {"Authorization": f"Bearer {door.admin}"}
        url = door.url.replace("http", "ws") + "/api/v1/events/ws"
        async with websockets.connect(url, additional_headers=headers) as socket:
            await socket.send(json.dumps({"id": "a", "topic": "points", "run": "live-nan"}))
            return list(json.loads(await asyncio.wait_for(socket.recv(), 20))["data"]["points"])

    told = asyncio.run(follow())
    assert [p["value"] for p in told] == [None, None, 1e-7]
    for said, read in zip(told, page, strict=True):
        assert {k: v for k, v in said.items() if k != "at"} == {k: v for k, v in read.items() if k != "at"}
        assert datetime.fromisoformat(str(said["at"])) == datetime.fromisoformat(read["at"])
