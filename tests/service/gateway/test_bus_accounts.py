"""Subscribers over NATS: each hears its own part, and can neither read nor say anything else; a revoked one is out at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from ltp.bus.permissions import OPERATOR, SYSTEM
from ltp.up.servers import bus_url, plan_servers
from ltp.up.state import DataDir, prepare
from tests.conftest import free_port, new_database, until
from tests.service.gateway.conftest import Door, open_door

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


@dataclass
class Bus:
    """A NATS as `ltp up` sets it up, and a gateway that is let in as itself."""

    data: DataDir
    port: int
    door: Door

    def url(self, user: str) -> str:
        return bus_url(self.data, user, self.port)


@contextlib.contextmanager
def nats_of_up(data: DataDir, **environ: str) -> Iterator[int]:
    """The NATS that `ltp up` would start with this environment; its port."""
    prepare(data)
    port = free_port()
    ports = {"nats": port, "nats_monitor": free_port()}
    server = plan_servers(data, ports, {"LTP_DATABASE_URL": "postgresql://x", "LTP_MILVUS_URI": "http://x", **environ})[
        0
    ]
    assert server.spec is not None
    with data.log("nats").open("ab") as log:
        process = subprocess.Popen(server.spec.argv, stdout=log, stderr=log, cwd="/")
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def bus(postgres: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    data = DataDir(tmp_path_factory.mktemp("bus"))
    with nats_of_up(data) as port:
        url = asyncio.run(new_database(postgres, "template_ltp"))
        more = {"LTP_GATEWAY_BUS_FOLDER": str(data.bus), "LTP_GATEWAY_BUS_SYSTEM_URL": bus_url(data, SYSTEM, port)}
        door = open_door(bus_url(data, "gateway", port), url, tmp_path_factory.mktemp("bus-door"), **more)
        yield Bus(data, port, door)
        door.process.terminate()
        door.process.wait(20)


class Ear:
    """A subscriber's client, and what NATS refused it."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client, self.refused = client, refused


@contextlib.asynccontextmanager
async def ear(bus: Bus, account: dict[str, Any]) -> AsyncIterator[Ear]:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        f"nats://127.0.0.1:{bus.port}",
        user=account["user"],
        password=account["password"],
        inbox_prefix=account["inbox_prefix"].encode(),
        error_cb=note,
        max_reconnect_attempts=2,
        reconnect_time_wait=0.1,
    )
    try:
        yield Ear(client, refused)
    finally:
        await client.close()


def account(bus: Bus, token: str, name: str, **more: Any) -> dict[str, Any]:
    answer = bus.door.by(token).post("/bus-accounts", json={"name": name, "subjects": ["ltp.audit.v1.*"], **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def cause(bus: Bus, token: str, times: int = 1) -> None:
    for number in range(times):
        assert bus.door.by(token).put(f"/secrets/b{token[4:12]}-{number}", json={"value": "v"}).is_success


async def take(client: Client, made: dict[str, Any], count: int) -> list[Any]:
    found: list[Any] = []
    subscription = await client.jetstream().pull_subscribe_bind(made["consumer"], stream=made["stream"])
    while len(found) < count:
        found += await subscription.fetch(count - len(found), timeout=15)
    for message in found:
        await message.ack_sync()
    return found


async def test_a_subscriber_hears_its_project_kept_and_live_and_again(bus: Bus) -> None:
    mine, theirs = bus.door.token("manager", "a.b"), bus.door.token("manager", "a")
    made = account(bus, mine, "billing")
    cause(bus, theirs, 2)
    cause(bus, mine, 3)
    async with ear(bus, made) as listener:
        live: list[Any] = []

        async def hear(message: Any) -> None:
            live.append(message)

        await listener.client.subscribe(made["live_subjects"][0], cb=hear)
        await listener.client.flush()
        kept = await take(listener.client, made, 3)
        known = {e["event_id"]: e for e in bus.door.by(mine).get("/events").json()}
        assert {m.headers["ce-project"] for m in kept} == {"a.b"}
        for message in kept:
            said = known[message.headers["ce-id"]]
            assert (json.loads(message.data), message.headers["ltp-seq"]) == (said["data"], str(said["seq"]))
        cause(bus, mine)
        await until(lambda: any("secrets" in json.loads(m.data)["path"] for m in live), 20)
        assert {m.headers["ce-project"] for m in live} == {"a.b"}
        first = int(kept[0].headers["ltp-seq"])
        answer = bus.door.by(mine).post("/bus-accounts/billing/replay", json={"after": first})
        assert answer.status_code == 202, answer.text
        again = await take(listener.client, made, 2)
        assert [m.headers["ce-id"] for m in again] == [m.headers["ce-id"] for m in kept[1:]]
        assert listener.refused == []
    assert bus.door.by(theirs).get("/bus-accounts").json()["accounts"] == []
    assert bus.door.by(theirs).delete(f"/bus-accounts/{made['account_id']}").status_code == 404


FORBIDDEN_TO_SAY = [
    "ltp.job.v1.submitted", "ltp.audit.v1.recorded", "ltp-feed.p1.ltp.job.v1.submitted", "ltp-rpc.runner.log", "ltp-dead.x",
    "ltp-telemetry.x", "$JS.API.STREAM.DELETE.LTP_EVENTS", "$JS.API.STREAM.PURGE.LTP_FEED", "$JS.API.STREAM.MSG.GET.LTP_FEED",
    "$JS.API.STREAM.INFO.LTP_FEED", "$JS.API.CONSUMER.CREATE.LTP_FEED.mine", "$JS.API.CONSUMER.DURABLE.CREATE.LTP_EVENTS.x",
    "$JS.API.CONSUMER.LIST.LTP_FEED", "$JS.API.DIRECT.GET.LTP_EVENTS", "$SYS.REQ.SERVER.PING", "_INBOX.x.y", "anything",
]  # fmt: skip
FORBIDDEN_TO_HEAR = [
    ">", "*", "ltp.>", "ltp.audit.v1.recorded", "ltp-feed.>", "ltp-feed.*.>", "ltp-feed.p2.>", "ltp-feed.p1.ltp.job.v1.*",
    "ltp-telemetry.>", "ltp-rpc.>", "ltp-dead.>", "_INBOX.>", "$JS.>", "$SYS.>", "ltp-feed._.>",
]  # fmt: skip


async def test_a_subscriber_can_neither_read_nor_say_outside_its_scope(bus: Bus) -> None:
    mine, theirs = bus.door.token("manager", "p1"), bus.door.token("manager", "p2")
    made, other = account(bus, mine, "one"), account(bus, theirs, "two")
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    async with ear(bus, made) as listener:
        for number, subject in enumerate(FORBIDDEN_TO_SAY, 1):
            await listener.client.publish(subject, b"{}")
            await until(lambda wanted=number: len(listener.refused) >= wanted)
            assert "permissions violation" in listener.refused[-1].lower(), (subject, listener.refused)
        listener.refused.clear()
        for number, subject in enumerate(FORBIDDEN_TO_HEAR, 1):
            await listener.client.subscribe(subject, cb=hear)
            await until(lambda wanted=number: len(listener.refused) >= wanted)
            assert "permissions violation" in listener.refused[-1].lower(), (subject, listener.refused)
        cause(bus, theirs, 2)
        cause(bus, mine, 2)
        await take(listener.client, made, 2)
        with pytest.raises((NatsError, APIError, asyncio.TimeoutError)):
            subscription = await listener.client.jetstream().pull_subscribe_bind(other["consumer"], stream="LTP_FEED")
            await subscription.fetch(1, timeout=1)
    assert heard == []
    async with ear(bus, other) as listener:
        assert len(await take(listener.client, other, 2)) == 2


async def test_a_revoked_account_is_out_at_once(bus: Bus) -> None:
    made = account(bus, bus.door.admin, "gone", project="p3")
    async with ear(bus, made) as listener:
        answer = bus.door.root.delete("/bus-accounts/gone")
        assert answer.status_code == 200 and answer.json()["revoked_at"], answer.text
        await until(lambda: not listener.client.is_connected)
    with pytest.raises(NatsError):
        await nats.connect(
            f"nats://127.0.0.1:{bus.port}", user=made["user"], password=made["password"], allow_reconnect=False
        )
    listed = bus.door.root.get("/bus-accounts").text
    assert made["password"] not in listed and "digest" not in listed


async def test_who_has_no_account_may_listen_and_say_nothing(bus: Bus) -> None:
    refused: list[str] = []
    heard: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    client = await nats.connect(f"nats://127.0.0.1:{bus.port}", error_cb=note)
    await client.subscribe("ltp.>", cb=hear)
    await client.flush()
    cause(bus, bus.door.token("manager", "open"))
    await until(lambda: heard, 20)
    assert refused == []
    for number, subject in enumerate(FORBIDDEN_TO_SAY, 1):
        await client.publish(subject, b"{}")
        await until(lambda wanted=number: len(refused) >= wanted)
    await client.close()


async def test_a_closed_bus_refuses_who_has_no_account(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with nats_of_up(data, LTP_BUS_CLOSED="1") as port:
        await until(lambda: connected(bus_url(data, OPERATOR, port)), 20)
        assert not await connected(f"nats://127.0.0.1:{port}")


async def connected(url: str) -> bool:
    try:
        client = await nats.connect(url, allow_reconnect=False)
    except (NatsError, OSError):
        return False
    await client.close()
    return True


async def test_a_service_says_only_what_is_its_to_say(bus: Bus) -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(bus.url("planner"), error_cb=note)
    await client.publish("ltp.job.v1.succeeded", b"{}")
    await until(lambda: refused)
    refused.clear()
    await client.publish("ltp.plan.v1.made", b"{}")
    await client.flush()
    await client.close()
    assert refused == []
    client = await nats.connect(bus.url(OPERATOR))
    await client.jetstream().stream_info("LTP_EVENTS")
    await client.close()


def test_what_is_no_account_is_refused(bus: Bus) -> None:
    for wrong in (
        {"name": "a.b"}, {"name": "a", "subjects": []}, {"name": "a", "subjects": ["$JS.>"]},
        {"name": "a", "subjects": ["ltp.>.x"]}, {"name": "a", "subjects": ['ltp.x"]}']}, {"name": "a\nb"}, {"name": ""},
        {"name": "a", "after": 1, "since": "2026-01-01T00:00:00Z"}, {"name": "a", "after": -1}, {"name": "a", "password": "x"},
        {"name": "a", "subjects": ["ltp.job.*.done", "ltp.*.v1.done"]},
    ):  # fmt: skip
        answer = bus.door.root.post("/bus-accounts", json=wrong)
        assert answer.status_code == 400, (wrong, answer.text)
    # What another subject holds is no fault: NATS is given the other alone.
    twice = {"name": "twice", "subjects": ["ltp.job.v1.*", "ltp.>", "ltp.>"]}
    made = bus.door.root.post("/bus-accounts", json=twice)
    assert made.status_code == 201, made.text
    assert made.json()["subjects"] == ["ltp.>"]
    user = bus.door.token("user", "p1")
    assert bus.door.by(user).post("/bus-accounts", json={"name": "u"}).status_code == 403
    manager = bus.door.token("manager", "p1")
    assert bus.door.by(manager).post("/bus-accounts", json={"name": "u", "project": "p2"}).status_code == 403


def test_the_example_takes_events(bus: Bus) -> None:
    token = bus.door.token("manager", "example")
    made = account(bus, token, "example", after=0)
    cause(bus, token, 2)
    environment = {"LTP_BUS_URL": f"nats://127.0.0.1:{bus.port}", "LTP_BUS_USER": made["user"], **os.environ}
    environment["LTP_BUS_PASSWORD"] = made["password"]
    argv = [sys.executable, str(EXAMPLES / "subscriber.py"), "2"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["ltp.audit.v1.recorded"] * 2


@pytest.mark.skipif(shutil.which("nats") is None, reason="the `nats` command is not installed")
def test_the_example_in_shell_takes_events(bus: Bus) -> None:
    token = bus.door.token("manager", "shell")
    made = account(bus, token, "shell", after=0)
    cause(bus, token, 2)
    environment = {"LTP_BUS_URL": f"nats://127.0.0.1:{bus.port}", "LTP_BUS_USER": made["user"], **os.environ}
    environment["LTP_BUS_PASSWORD"] = made["password"]
    argv = ["sh", str(EXAMPLES / "subscriber.sh"), "2"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count('"outcome"') == 2
