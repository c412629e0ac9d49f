"""Webhooks: signed, filtered, walled by project, tried again, given up and sent again, and never into our own network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ltp.security.signatures import is_signed
from tests.service.gateway.conftest import Door
from tests.service.gateway.receiver import Receiver

AUDIT = "ltp.audit.v1.recorded"


def wait(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def hook(door: Door, receiver: Receiver, token: str | None = None, **more: Any) -> dict[str, Any]:
    wanted = {"url": receiver.url, "name": f"h{time.monotonic_ns()}", "subjects": [AUDIT], **more}
    answer = door.by(token or door.admin).post("/webhooks", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def cause(door: Door, token: str | None = None, times: int = 1) -> None:
    for number in range(times):
        assert (
            door.by(token or door.admin)
            .put(f"/secrets/s{number}-{(token or door.admin)[4:12]}", json={"value": "v"})
            .is_success
        )


def states(door: Door, made: dict[str, Any], token: str | None = None) -> list[str]:
    page = door.by(token or door.admin).get(f"/webhooks/{made['webhook_id']}/deliveries", params={"limit": 1000}).json()
    return [one["state"] for one in page["deliveries"]]


def test_an_event_comes_signed_once_and_says_what_the_api_says(door: Door, receiver: Receiver) -> None:
    made = hook(door, receiver, about=None, project="hooked")
    owner = door.token("manager", "hooked")
    cause(door, owner)
    wait(lambda: receiver.good)
    got = receiver.good[0]
    assert is_signed(made["secret"], got.headers, got.body, time.time())
    assert not is_signed(made["secret"], got.headers, got.body + b" ", time.time())
    assert not is_signed(made["secret"], got.headers, got.body, time.time() + 3600)
    event = got.event
    known = door.by(owner).get("/events", params={"after": int(event["sequence"]) - 1, "limit": 1}).json()[0]
    assert (event["id"], event["type"], event["data"]) == (known["event_id"], AUDIT, known["data"])
    assert got.headers["webhook-id"] == event["id"] and event["source"] == "/gateway" and event["project"] == "hooked"
    assert got.headers["content-type"] == "application/cloudevents+json"
    door.root.delete(f"/webhooks/{made['webhook_id']}")
    assert door.root.get(f"/webhooks/{made['webhook_id']}").status_code == 404


def test_binary_mode_and_a_new_secret_beside_the_old(door: Door, receiver: Receiver) -> None:
    made = hook(door, receiver, mode="binary")
    new = door.root.post(f"/webhooks/{made['webhook_id']}/rotate-secret").json()["secret"]
    cause(door)
    wait(lambda: receiver.good)
    got = receiver.good[0]
    assert got.headers["ce-type"] == AUDIT and got.event["outcome"] == "done"
    assert new != made["secret"]
    assert is_signed(new, got.headers, got.body, time.time())
    assert is_signed(made["secret"], got.headers, got.body, time.time())
    door.root.delete(f"/webhooks/{made['name']}")


def test_a_project_hears_its_own_and_sees_its_own(door: Door, receiver: Receiver) -> None:
    mine, theirs = door.token("manager", "wh-mine"), door.token("manager", "wh-theirs")
    made = hook(door, receiver, mine)
    assert made["project"] == "wh-mine"
    cause(door, theirs)
    cause(door)
    cause(door, mine)
    wait(lambda: len(receiver.good) >= 1)
    cause(door, mine)
    wait(lambda: len(receiver.good) >= 2)
    assert {one.event["project"] for one in receiver.good} == {"wh-mine"}
    other = door.by(theirs)
    for path in ("", "/deliveries"):
        assert other.get(f"/webhooks/{made['webhook_id']}{path}").status_code == 404
    assert other.delete(f"/webhooks/{made['webhook_id']}").status_code == 404
    assert other.post(f"/webhooks/{made['webhook_id']}/replay", json={"after": 0}).status_code == 404
    assert other.get("/webhooks").json()["webhooks"] == []
    wanted = {"url": receiver.url, "project": "wh-mine"}
    assert other.post("/webhooks", json=wanted).status_code == 403
    assert door.by(door.token("user", "wh-mine")).post("/webhooks", json=wanted).status_code == 403
    door.by(mine).delete(f"/webhooks/{made['webhook_id']}")


def test_it_is_tried_again_given_up_and_sent_again(door: Door, receiver: Receiver) -> None:
    owner = door.token("manager", "retry")
    made = hook(door, receiver, owner)
    wait(lambda: states(door, made, owner) == ["delivered"])  # The news that it was made.
    receiver.statuses = [500, 503, 200]
    cause(door, owner)
    wait(lambda: states(door, made, owner) == ["delivered"] * 2)
    assert [one.status for one in receiver.taken[1:]] == [500, 503, 200]
    assert len({one.headers["webhook-id"] for one in receiver.taken[1:]}) == 1
    receiver.statuses = [500] * 3
    cause(door, owner)
    wait(lambda: "dead" in states(door, made, owner))
    dead = door.by(owner).get(f"/webhooks/{made['name']}/deliveries", params={"state": "dead"}).json()["deliveries"]
    assert [(d["attempts"], d["status"]) for d in dead] == [(3, 500)]
    answer = door.by(owner).post(f"/webhooks/{made['name']}/replay", json={"dead": True})
    assert answer.status_code == 202 and answer.json()["deliveries"] == 1
    wait(lambda: set(states(door, made, owner)) == {"delivered"})
    before = [one.headers["webhook-id"] for one in receiver.good]
    first = dead[0]["seq"] - 1
    assert door.by(owner).post(f"/webhooks/{made['name']}/replay", json={"after": first}).status_code == 202
    wait(lambda: dead[0]["event_id"] in [one.headers["webhook-id"] for one in receiver.good[len(before) :]])
    for wish in ({}, {"after": 1, "dead": True}, {"since": "2026-01-01T00:00:00"}):
        assert door.by(owner).post(f"/webhooks/{made['name']}/replay", json=wish).status_code == 400
    assert door.by(owner).post(f"/webhooks/{made['name']}/replay", json={"delivery_id": 1}).status_code == 404
    door.by(owner).delete(f"/webhooks/{made['webhook_id']}")


def test_a_receiver_that_fails_for_long_is_left_alone_and_enabled_again(door: Door, receiver: Receiver) -> None:
    owner = door.token("manager", "failing")
    made = hook(door, receiver, owner)
    receiver.otherwise = 500

    def disabled() -> bool:
        cause(door, owner)
        return not door.by(owner).get(f"/webhooks/{made['webhook_id']}").json()["enabled"]

    wait(disabled)
    told = door.by(owner).get("/events", params={"subject": "ltp.webhook.v1.disabled"})
    wait(lambda: door.by(owner).get("/events", params={"subject": "ltp.webhook.v1.disabled"}).json())
    assert told.status_code == 200
    receiver.otherwise, heard = 204, len(receiver.taken)
    assert door.by(owner).patch(f"/webhooks/{made['name']}", json={"enabled": True}).json()["reason"] is None
    wait(lambda: len(receiver.taken) > heard and "pending" not in states(door, made, owner))
    receiver.otherwise = 410
    cause(door, owner)
    wait(lambda: not door.by(owner).get(f"/webhooks/{made['name']}").json()["enabled"])
    door.by(owner).delete(f"/webhooks/{made['webhook_id']}")


@pytest.mark.slow  # What the killed one had in hand comes again after its half minute on the bus, or its minute here.
def test_a_gateway_killed_in_the_middle_sends_every_event(door: Door, receiver: Receiver) -> None:
    owner = door.token("manager", "killed")
    made = hook(door, receiver, owner)
    cause(door, owner, times=25)
    door.process.kill()
    door.process.wait()
    door.start()
    cause(door, owner, times=5)
    wait(lambda: len(door.by(owner).get("/events", params={"subject": AUDIT, "limit": 1000}).json()) >= 30, 60)
    events = door.by(owner).get("/events", params={"subject": AUDIT, "limit": 1000}).json()
    after = {e["event_id"] for e in events if e["data"]["path"].startswith("/api/v1/secrets")}
    # A try that the killed one had begun is made again when its lease of a minute ends.
    wait(lambda: after <= {one.headers["webhook-id"] for one in receiver.good}, 90)
    door.by(owner).delete(f"/webhooks/{made['webhook_id']}")


CLOSED = [
    "http://10.1.2.3/", "http://127.0.0.2/", "http://0.0.0.0:1/", "http://169.254.169.254/latest/meta-data/",
    "http://[::1]:80/", "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "http://192.168.0.1/",
    "http://[fe80::1]/", "http://[fd00::1]/", "http://2130706434/", "http://0x7f.0.0.2/", "http://100.64.0.1/",
    "http://224.0.0.1/", "http://255.255.255.255/", "http://[2002:0a00:0001::]/", "http://[::ffff:7f00:2]/",
]  # fmt: skip


def test_nothing_is_sent_into_our_own_network(door: Door, receiver: Receiver) -> None:
    for url in CLOSED:
        made = hook(door, receiver, url=url, subjects=["ltp.nothing.v1.said"])
        came = door.root.post(f"/webhooks/{made['webhook_id']}/test").json()
        assert not came["delivered"] and came["status"] is None and "public" in came["problem"], (url, came)
        door.root.delete(f"/webhooks/{made['webhook_id']}")
    receiver.otherwise, receiver.location = 302, "http://169.254.169.254/"
    made = hook(door, receiver, subjects=["ltp.nothing.v1.said"])
    came = door.root.post(f"/webhooks/{made['webhook_id']}/test").json()
    assert (came["delivered"], came["status"]) == (False, 302)
    door.root.delete(f"/webhooks/{made['webhook_id']}")


@pytest.mark.parametrize(
    "url", ["ftp://x/", "file:///etc/passwd", "http://", "http://u:p@example.com/", "http://ex ample.com/", "javascript:1",
            "http://exa\nmple.com/", "gopher://x/", "http://[::1", "http://x:99999999/"]
)  # fmt: skip
def test_what_is_no_address_is_refused(door: Door, url: str) -> None:
    answer = door.root.post("/webhooks", json={"url": url})
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request", answer.text
