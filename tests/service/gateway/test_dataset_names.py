"""Names of datasets are each project's own: two projects use the same one, and neither meets or learns of the other's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import free_port
from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import routes
from tests.service.gateway.test_projects import recipe
from tests.tiny_model import write_tiny_model


@dataclass
class Twins:
    """Two projects with a dataset `same` each, of other rows."""

    door: Door
    one: httpx.Client
    other: httpx.Client


@pytest.fixture(scope="module")
def twins(door: Door) -> Iterator[Twins]:
    port = free_port()
    environment = {**door.environment, "LTP_HEALTH_PORT": str(port), "LTP_VECTOR_INDEX": "scan"}
    with door.log.with_name("dataset.log").open("ab") as log:
        service = subprocess.Popen([sys.executable, "-m", "services.dataset"], env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: ready(port), 60)
        write_tiny_model(door.data / "models" / "tiny")
        pair = Twins(door, door.by(door.token("user", "one")), door.by(door.token("user", "other")))
        for client, word in ((pair.one, "red"), (pair.other, "blue")):
            added(client, "same", word)
        yield pair
    finally:
        service.terminate()
        service.wait(30)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def eventually(condition: Any, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)
    return found


def added(client: httpx.Client, name: str, word: str, **form: Any) -> dict[str, Any]:
    """Upload rows about a word, and wait until they are frozen."""
    rows = [json.dumps({"prompt": f"{word} {n}", "response": f"{word} answer {n}"}) for n in range(40)]
    files = {"file": ("rows.jsonl", "\n".join(rows).encode())}
    answer = client.post("/datasets", files=files, data={"name": name, **form})
    assert answer.status_code == 202, answer.text
    where = f"/datasets/{answer.json()['dataset_id']}"
    frozen: dict[str, Any] = eventually(
        lambda: found if (found := client.get(where).json())["state"] != "uploaded" else None
    )
    assert frozen["state"] == "frozen", frozen
    return frozen


def words(client: httpx.Client, ref: str, **headers: str) -> str:
    answer = client.get(f"/datasets/{ref}/rows", params={"limit": 1000}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_each_has_its_own_under_the_name(twins: Twins) -> None:
    assert "red" in words(twins.one, "same") and "blue" not in words(twins.one, "same")
    assert "blue" in words(twins.other, "same") and "red" not in words(twins.other, "same")
    mine = twins.one.get("/datasets/versions", params={"name": "same"}).json()["versions"]
    theirs = twins.other.get("/datasets/same/version").json()
    assert [v["project"] for v in mine] == ["one"] and theirs["project"] == "other"
    # By digits of the other's hash nothing is found, and nothing is told.
    for ref in (f"same@{theirs['version']}", f"same@{theirs['version'][:8]}", theirs["dataset_id"]):
        answer = twins.one.get(f"/datasets/{ref}/rows")
        assert answer.status_code == 404 and "other" not in answer.text, answer.text
    found = twins.one.get("/datasets/same/search", params={"q": "blue answer", "mode": "lexical"}).json()
    assert "blue" not in json.dumps(found["rows"])


def test_the_recipe_of_a_job_means_its_projects_dataset(twins: Twins) -> None:
    for client in (twins.one, twins.other):
        version = client.get("/datasets/same/version").json()["version"]
        answer = client.post("/jobs", json=recipe("tiny", "same"))
        assert answer.status_code == 202, answer.text
        job = client.get(f"/jobs/{answer.json()['job_id']}").json()
        assert job["dataset"]["version"] == version
    foreign = twins.other.get("/datasets/same/version").json()["version"]
    body = recipe("tiny", "same")
    body["dataset"]["version"] = foreign
    answer = twins.one.post("/jobs", json=body)
    absent = twins.one.post("/jobs", json=recipe("tiny", "nobodys"))
    assert answer.status_code == absent.status_code and answer.json()["code"] == absent.json()["code"]


def test_what_is_made_of_a_name_stays_with_its_project(twins: Twins) -> None:
    made = twins.one.post("/datasets/same/split", json={"shares": {"train": 0.5, "test": 0.5}, "name": "halves"})
    assert made.status_code == 202, made.text
    where = f"/datasets/{made.json()['dataset_id']}"
    eventually(lambda: twins.one.get(where).json()["state"] == "frozen")
    assert twins.one.get("/datasets/halves/version").json()["project"] == "one"
    assert twins.other.get("/datasets/halves/version").status_code == 404
    assert "red" in words(twins.one, "halves")
    mixed = twins.other.post("/datasets/mix", json={"name": "m", "parts": {"same": 1, "halves": 1}})
    assert mixed.status_code == 404 and "one" not in mixed.json()["detail"].split(), mixed.text


def test_marks_and_deletion_touch_ones_own_alone(twins: Twins) -> None:
    for client, word in ((twins.one, "red"), (twins.other, "blue")):
        added(client, "gone", word)
    # The very same rows under the same name lie on the disk once, and stay while one of the two has them.
    shared = [added(client, "alike", "green")["version"] for client in (twins.one, twins.other)]
    assert shared[0] == shared[1]
    assert twins.one.put("/datasets/gone/marks", json={"keep_days": 9}).status_code == 202
    eventually(lambda: twins.one.get("/datasets/gone/version").json()["keep_days"] == 9)
    assert twins.other.get("/datasets/gone/version").json()["keep_days"] is None
    for name in ("gone", "alike"):
        assert twins.one.delete(f"/datasets/{name}").status_code == 202
        eventually(lambda name=name: twins.one.get(f"/datasets/{name}/version").status_code == 404)
    assert "blue" in words(twins.other, "gone")
    added(twins.one, "later", "red")  # by when the files of what was deleted before are gone
    assert "green" in words(twins.other, "alike")


def test_an_administrator_says_whose_where_several_have_the_name(twins: Twins) -> None:
    root = twins.door.root
    for answer in (
        root.get("/datasets/same/rows"), root.get("/datasets/same/version"), root.delete("/datasets/same"),
        root.put("/datasets/same/marks", json={"keep_days": 3}), root.post("/jobs", json=recipe("tiny", "same")),
        root.get("/datasets/same/search", params={"q": "red", "mode": "lexical"}),
    ):  # fmt: skip
        assert answer.status_code == 409, answer.text
        assert "one, other" in answer.json()["detail"] and "X-LTP-Project" in answer.json()["hint"], answer.text
    assert "red" in words(root, "same", **{"X-LTP-Project": "one"})
    theirs = twins.other.get("/datasets/same/version").json()
    assert "blue" in words(root, theirs["dataset_id"]) and "blue" in words(root, f"same@{theirs['version'][:12]}")
    added(root, "rootonly", "gold")
    assert "gold" in words(root, "rootonly")
    assert twins.one.get("/datasets/rootonly/rows").status_code == 404
    # What one project alone has needs no word on whose it is.
    added(twins.one, "alone", "red")
    assert "red" in words(root, "alone")
    # Who has a project cannot choose another.
    assert "blue" not in words(twins.one, "same", **{"X-LTP-Project": "other"})


def test_no_call_about_a_name_tells_of_anothers(twins: Twins) -> None:
    added(twins.other, "hidden", "violet")
    tried = 0
    for method, url in routes():
        if not url.startswith("/api/v1/datasets/nobody"):
            continue
        for name in ("hidden", "hidden@0123"):
            absent = twins.one.request(method, url.replace("nobody", name.replace("hidden", "absent"))[7:], json={})
            answer = twins.one.request(method, url.replace("nobody", name)[7:], json={})
            assert answer.status_code in {400, 404}, (method, url, answer.text)
            told, told_absent = (a.text.replace("hidden", "absent") for a in (answer, absent))
            assert answer.status_code == absent.status_code, (told, told_absent)
            assert "violet" not in told
            tried += 1
    assert tried > 20
    assert twins.other.get("/datasets/hidden/version").status_code == 200
