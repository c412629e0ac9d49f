"""Requests sent again under an Idempotency-Key do their work once, whatever they make and however the first one ended."""

from __future__ import annotations

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from services.gateway.repeats import own_key
from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import sql
from tests.service.gateway.test_projects import ROWS


def send(client: httpx.Client, path: str, key: str, **body: Any) -> httpx.Response:
    return client.post(path, headers={"Idempotency-Key": key}, **body)


def test_a_token_is_made_once_and_told_again(door: Door) -> None:
    body = {"name": "twice", "role": "user", "project": "keyed"}
    first = send(door.root, "/tokens", "t-1", json=body)
    again = send(door.root, "/tokens", "t-1", json=body)
    assert first.status_code == again.status_code == 201 and again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert len(sql(door, "SELECT 1 FROM gateway.tokens WHERE name = 'twice'")) == 1
    # What is shown once lies nowhere in the clear.
    kept = sql(door, "SELECT answer FROM gateway.repeats WHERE key = 't-1'")[0]["answer"]
    assert first.json()["token"].encode() not in kept
    other = send(door.root, "/tokens", "t-1", json={**body, "role": "manager"})
    assert other.status_code == 409 and "another request" in other.json()["detail"]
    assert send(door.root, "/webhooks", "t-1", json={"url": "https://example.com/"}).status_code == 409


def test_an_answer_is_told_again_to_its_caller_alone(door: Door) -> None:
    # What an administrator makes without a project is for all of them.
    made = send(door.root, "/tokens", "t-2", json={"name": "of-all", "role": "user"})
    assert made.status_code == 201
    manager = door.by(door.token("manager", "default"))
    other = send(manager, "/tokens", "t-2", json={"name": "of-all", "role": "user"})
    assert other.status_code == 409 and made.json()["token"] not in other.text


def test_no_project_can_spell_the_key_of_another() -> None:
    assert own_key("red", "x") != own_key("default", "red:x")
    assert own_key(None, "x") == own_key("default", "x") == "x"


def test_many_at_once_make_one(door: Door) -> None:
    def upload(_: int) -> httpx.Response:
        with httpx.Client(base_url=f"{door.url}/api/v1", timeout=60) as client:
            headers = {"Authorization": f"Bearer {door.admin}", "Idempotency-Key": "u-1"}
            return client.post(
                "/datasets", files={"file": ("r.jsonl", ROWS)}, data={"name": "keyed-up"}, headers=headers
            )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(upload, range(16)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    made = {answer.json()["dataset_id"] for answer in answers if answer.status_code == 202}
    rows = sql(door, "SELECT dataset_id FROM gateway.datasets WHERE name = 'keyed-up'")
    assert [str(row["dataset_id"]) for row in rows] == list(made)
    last = upload(0)
    assert last.status_code == 202 and last.json()["dataset_id"] in made


def test_what_was_refused_may_be_sent_again_and_keys_are_of_a_project(door: Door) -> None:
    hook = {"name": "keyed", "url": "ftp://example.com/"}
    assert send(door.root, "/webhooks", "w-1", json=hook).status_code in {400, 422}
    hook["url"] = "https://example.com/"
    assert send(door.root, "/webhooks", "w-1", json=hook).status_code == 201
    red, blue = (door.by(door.token("manager", project)) for project in ("keyed-red", "keyed-blue"))
    made = [send(client, "/webhooks", "same", json=hook | {"name": f"h{n}"}) for n, client in enumerate((red, blue))]
    assert [answer.status_code for answer in made] == [201, 201]
    assert send(blue, "/webhooks", "same", json=hook | {"name": "h1"}).json() == made[1].json()
    for bad in ("", "é", "a b", "x" * 201):
        answer = door.root.post("/webhooks", headers={"Idempotency-Key": bad.encode()}, json=hook)
        assert answer.status_code == 400, (bad, answer.text)


def test_an_answer_that_got_lost_does_no_work_again(door: Door) -> None:
    body = {"name": "lost", "role": "user", "project": "keyed"}
    assert send(door.root, "/tokens", "l-1", json=body).status_code == 201
    # As after a kill between the effect and its answer.
    sql(door, "UPDATE gateway.repeats SET answer = NULL, digest = NULL, status = NULL WHERE key = 'l-1'")
    again = send(door.root, "/tokens", "l-1", json=body)
    assert again.status_code == 409 and "took effect" in again.json()["detail"]
    cause = re.search(r"event ([0-9a-f-]{36})", again.json()["hint"])
    assert cause is not None and sql(door, "SELECT 1 FROM gateway.repeats WHERE cause = $1", uuid.UUID(cause[1]))
    assert len(sql(door, "SELECT 1 FROM gateway.tokens WHERE name = 'lost'")) == 1


def test_each_command_that_takes_time_says_where_to_look(door: Door) -> None:
    document = httpx.get(f"{door.url}/openapi.json", timeout=60).json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status in {"201", "202"} & set(operation["responses"]):
                assert "Location" in operation["responses"][status]["headers"], (method, path)
            if method == "post":
                assert "Idempotency-Key" in json.dumps(operation["parameters"]).title(), path
    dataset_id = door.root.post("/datasets", files={"file": ("r.jsonl", ROWS)}, data={"name": "located"})
    assert door.root.get(dataset_id.headers["Location"].removeprefix("/api/v1")).status_code == 200
