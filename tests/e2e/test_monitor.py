"""Queues, work, workers and dead letters by the commands a user has: what waits, limits, cancellation, replay."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import nats
import pytest

from ltp.bus.permissions import OPERATOR
from ltp.up.servers import bus_url
from ltp.up.state import DataDir
from tests.e2e.platform import Platform, eventually

pytestmark = pytest.mark.e2e


def queue(platform: Platform, name: str = "maintenance") -> Any:
    return next(q for q in platform.json("queue", "list")["queues"] if q["name"] == name)


@pytest.fixture
def held_back(platform: Platform) -> Iterator[None]:
    """Nothing of the queue `maintenance` starts."""
    platform.ltp("queue", "set", "maintenance", "--paused")
    yield
    platform.ltp("queue", "set", "maintenance", "--resumed", "--limit", "none")


def waiting_chore(platform: Platform, schedule: str) -> Any:
    """A chore that was asked for and waits in its queue."""
    known = {each["work_id"] for each in platform.json("work", "list", "--kind", "maintain", "--limit", "1000")["work"]}
    platform.ltp("schedule", "run-now", schedule)

    def found() -> Any:
        page = platform.json("work", "list", "--queue", "maintenance", "--kind", "maintain", "--state", "queued")
        return next((each for each in page["work"] if each["work_id"] not in known), None)

    return eventually(found, seconds=20)


def test_there_are_five_queues_and_workers_that_say_what_they_do(platform: Platform) -> None:
    names = [each["name"] for each in platform.json("queue", "list")["queues"]]
    assert names == ["training", "evaluation", "default", "preprocessing", "maintenance"]
    workers = platform.json("work", "workers")["workers"]
    assert {"train", "maintain", "admit", "freeze", "export"} <= {each["kind"] for each in workers if each["alive"]}
    assert "WAITING" in platform.ltp("queue").stdout


def test_a_paused_queue_holds_its_work_back_and_says_so(platform: Platform, held_back: None) -> None:
    assert queue(platform)["paused"]
    work = waiting_chore(platform, "host-probe")
    assert queue(platform)["waiting"] >= 1
    assert platform.json("work", "get", work["work_id"])["state"] == "queued"
    dry = platform.json("queue", "set", "maintenance", "--resumed", "--limit", "3", "--dry-run")
    assert (dry["paused"], dry["limit"], queue(platform)["paused"]) == (False, 3, True)
    platform.ltp("queue", "set", "maintenance", "--resumed", "--limit", "3")
    eventually(lambda: platform.json("work", "get", work["work_id"])["state"] == "done", seconds=30)
    assert queue(platform)["limit"] == 3
    ticks = platform.json("schedule", "ticks", "host-probe")
    assert ticks[0]["state"] == "succeeded" and ticks[0]["result"]["hosts"] >= 1


def test_work_is_cancelled_once_and_what_is_over_says_so(platform: Platform, held_back: None) -> None:
    work = waiting_chore(platform, "orphan-sweep")["work_id"]
    assert "would be requested" in platform.ltp("work", "cancel", work, "--dry-run").stdout
    assert platform.json("work", "get", work)["state"] == "queued"
    platform.ltp("work", "cancel", work)
    eventually(lambda: platform.json("work", "get", work)["state"] == "cancelled", seconds=30)
    for verb, said in (("cancel", "is cancelled already"), ("retry", "Only dead work")):
        refused = platform.ltp("work", verb, work, check=False)
        assert refused.returncode == 1 and said in refused.stderr


def test_a_part_of_a_noun_is_looked_after_by_its_noun(platform: Platform) -> None:
    frozen = platform.json("work", "list", "--kind", "freeze")["work"][0]
    refused = platform.ltp("work", "retry", frozen["work_id"], check=False)
    assert refused.returncode == 1 and "conflict" in refused.stderr


def test_a_quota_is_set_shown_and_lifted(platform: Platform) -> None:
    platform.ltp("queue", "quota", "lab", "--running", "2", "--devices", "4")
    shown = platform.json("queue", "quota", "lab")
    assert (shown["max_running"], shown["max_devices"]) == (2, 4)
    lifted = platform.json("queue", "quota", "lab", "--running", "none", "--devices", "none")
    assert (lifted["max_running"], lifted["max_devices"]) == (None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("queue", "set", "gpu", "--limit", "1"), "The queues are training"),
        (("queue", "set", "training", "--limit", "0"), "not between 1 and"),
        (("queue", "set", "training", "--limit", "-5"), "not between 1 and"),
        (("queue", "set", "training", "--limit", "99999999999999999999"), "limit"),
        (("queue", "set", "training", "--limit", "many"), "many"),
        (("queue", "set", "training"), "--limit"),
        (("queue", "quota", "lab", "--devices", "0"), "not between 1 and"),
        (("work", "get", str(uuid.UUID(int=7))), "There is no work"),
        (("work", "get", "nonsense"), "valid UUID"),
        (("work", "list", "--queue", "gpu"), "There is no queue"),
        (("queue", "dead", "replay", "999999"), "no dead letter"),
        (("queue", "dead", "drop"), "--all"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(platform: Platform, words: tuple[str, ...], said: str) -> None:
    refused = platform.ltp(*words, check=False)
    assert refused.returncode in {1, 2}, refused.stdout
    assert said in refused.stderr


def test_nobody_sees_work_without_the_token(platform: Platform) -> None:
    url = platform.json("status")["urls"]["gateway"]
    for path in ("queues", "work", "workers", "dead-letters"):
        assert httpx.get(f"{url}/api/v1/{path}").status_code == 401


def test_a_message_nobody_can_read_is_kept_as_a_dead_letter_replayed_and_dropped(platform: Platform) -> None:
    subject, marker = "ltp.work.v1.retry-requested", f"no event {uuid.uuid4()}"

    def letters() -> list[Any]:
        page = platform.json("queue", "dead", "list", "--limit", "500")["letters"]
        return [each for each in page if each["subject"] == subject and each["consumer"].startswith("scheduler")]

    async def say() -> None:
        data = DataDir(platform.data)
        record = data.running()
        assert record is not None
        client = await nats.connect(bus_url(data, OPERATOR, record.ports["nats"]))
        await client.jetstream().publish(subject, marker.encode())
        await client.close()

    before = {each["seq"] for each in letters()}
    asyncio.run(say())
    (letter,) = eventually(lambda: [each for each in letters() if each["seq"] not in before], seconds=60)
    assert letter["error"]
    dry = platform.json("queue", "dead", "replay", str(letter["seq"]), "--dry-run")
    assert dry == {"replayed": [letter["seq"]], "dry_run": True}
    platform.ltp("queue", "dead", "replay", str(letter["seq"]))
    # Delivered again it is as unreadable as before.
    (again,) = eventually(lambda: [each for each in letters() if each["seq"] > letter["seq"]], seconds=60)
    platform.ltp("queue", "dead", "drop", str(again["seq"]))
    assert again["seq"] not in {each["seq"] for each in letters()}
    gone = platform.ltp("queue", "dead", "drop", str(again["seq"]), check=False)
    assert gone.returncode == 1 and "no dead letter" in gone.stderr
