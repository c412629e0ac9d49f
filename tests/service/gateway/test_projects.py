"""Two projects on one platform: neither sees or touches what is the other's, by any door."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import routes, sql

ROWS = b"".join(json.dumps({"prompt": f"{n} + 1", "response": str(n + 1)}).encode() + b"\n" for n in range(40))


def frozen(door: Door, client: httpx.Client, name: str) -> str:
    """A dataset that is ready: the dataset service is not here to read it."""
    answer = client.post("/datasets", files={"file": ("rows.jsonl", ROWS)}, data={"name": name})
    assert answer.status_code == 202, answer.text
    dataset_id = answer.json()["dataset_id"]
    splits = {"train": {"path": "/nowhere", "rows": 36, "answered": 36, "sha256": "0" * 64}}
    sql(
        door,
        "UPDATE gateway.datasets SET state = 'frozen', version = $2, rows = 36, splits = $3 WHERE dataset_id = $1",
        uuid.UUID(dataset_id), uuid.uuid4().hex * 2, json.dumps(splits),
    )  # fmt: skip
    return str(dataset_id)


def recipe(model: str, dataset: str) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"path": model},
        "dataset": {"name": dataset},
        "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
    }


class Tenants:
    """Two projects with a dataset each, and a job of the first. The door is shared: each file names its own projects."""

    def __init__(self, door: Door, red: str, blue: str) -> None:
        (door.data / "models" / "shared").mkdir(parents=True, exist_ok=True)
        self.red, self.blue = (door.by(door.token("user", project)) for project in (red, blue))
        self.reds_dataset = frozen(door, self.red, f"{red}s")
        self.blues_dataset = frozen(door, self.blue, f"{blue}s")
        answer = self.red.post("/jobs", json=recipe("shared", f"{red}s"), headers={"Idempotency-Key": "same"})
        assert answer.status_code == 202, answer.text
        self.reds_job = answer.json()["job_id"]


@pytest.fixture(scope="module")
def tenants(door: Door) -> Tenants:
    return Tenants(door, "red", "blue")


def test_what_one_makes_the_other_does_not_see(door: Door, tenants: Tenants) -> None:
    red, blue, job = tenants.red, tenants.blue, tenants.reds_job
    assert red.get(f"/jobs/{job}").json()["options"]["project"] == "red"
    assert [j["job_id"] for j in red.get("/jobs").json()["jobs"]] == [job]
    assert blue.get("/jobs").json()["jobs"] == []
    assert {d["name"] for d in blue.get("/datasets").json()} == {"blues"}
    assert {d["name"] for d in red.get("/datasets").json()} == {"reds"}
    assert {d["name"] for d in door.root.get("/datasets").json()} >= {"reds", "blues"}
    deadline = time.monotonic() + 20
    while not red.get("/events", params={"job_id": job}).json():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert blue.get("/events", params={"job_id": job}).status_code == 404
    assert job not in blue.get("/events").text
    assert "reds" not in blue.get("/events").text


def test_every_call_about_a_foreign_job_or_dataset_finds_nothing(tenants: Tenants) -> None:
    zero = "00000000-0000-0000-0000-000000000000"
    tried = 0
    for method, url in routes():
        if f"/jobs/{zero}" not in url and not url.startswith(("/api/v1/datasets/nobody", f"/api/v1/datasets/{zero}")):
            continue
        if "upload" in url:
            continue
        for name in (tenants.reds_job, tenants.reds_dataset):
            path = url.replace(zero, name) if "/jobs/" in url else url.replace("nobody", name).replace(zero, name)
            answer = tenants.blue.request(method, str(tenants.blue.base_url).removesuffix("/api/v1/") + path, json={})
            assert answer.status_code in {400, 404}, (method, path, answer.status_code, answer.text)
            assert "red" not in answer.text.replace("reds", "").replace("required", ""), answer.text
            tried += 1
    assert tried > 30
    assert tenants.red.get(f"/jobs/{tenants.reds_job}").json()["requested"] is None


def test_what_is_anothers_cannot_be_named_in_a_body(door: Door, tenants: Tenants) -> None:
    blue = tenants.blue
    for path in ("/jobs", "/plans"):
        answers = [blue.post(path, json=recipe("shared", name)) for name in ("reds", "nobodys")]
        assert answers[0].status_code == answers[1].status_code == 409, answers[0].text
        assert answers[0].text == answers[1].text.replace("nobodys", "reds")
    parts = {"blues": 1, tenants.reds_dataset: 1}
    assert blue.post("/datasets/mix", json={"name": "m", "parts": parts}).status_code == 404
    checkpoint = {"kind": "checkpoint", "checkpoint_id": tenants.reds_job}
    body = {"model": checkpoint, "datasets": [{"name": "blues"}], "scorer": {"name": "exact"}}
    assert blue.post("/evaluations", json=body).status_code == 404
    body = {"model": {"kind": "local_model", "path": "shared"}, "datasets": [{"dataset_id": tenants.reds_dataset}]}
    assert blue.post("/evaluations", json=body | {"scorer": {"name": "exact"}}).status_code == 404
    run = f"{door.data}/runs/{tenants.reds_job}/export"
    assert blue.post("/jobs", json=recipe(run, "blues")).status_code == 404
    both = {"before": tenants.reds_job, "after": tenants.reds_job}
    assert blue.get("/comparisons", params=both).status_code == 404
    assert blue.post("/jobs", json=recipe("shared", "blues"), params={"project": "red"}).status_code == 403


def test_an_idempotency_key_is_ones_own(tenants: Tenants) -> None:
    again = tenants.red.post("/jobs", json=recipe("shared", "reds"), headers={"Idempotency-Key": "same"})
    assert again.json()["job_id"] == tenants.reds_job
    other = tenants.blue.post("/jobs", json=recipe("shared", "blues"), headers={"Idempotency-Key": "same"})
    assert other.status_code == 202 and other.json()["job_id"] != tenants.reds_job


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secrets/token", "~/.ssh", "file:///etc/passwd", "/proc/self/environ"]
)
def test_a_project_reads_no_file_of_the_host(tenants: Tenants, path: str) -> None:
    answer = tenants.blue.post("/jobs", json=recipe(path, "blues"))
    assert answer.status_code == 403, answer.text
    assert "root:" not in answer.text
    answer = tenants.blue.post("/datasets/sources", json={"name": "stolen", "source": path})
    assert answer.status_code == 403, answer.text


def test_a_link_out_of_the_allowed_folders_is_followed_and_refused(door: Door, tenants: Tenants) -> None:
    link = door.data / "models" / "link"
    link.symlink_to(Path("/etc"))
    assert tenants.blue.post("/jobs", json=recipe(str(link / "passwd"), "blues")).status_code == 403


def test_an_administrator_acts_in_a_project_by_header(door: Door) -> None:
    files = {"file": ("r.jsonl", ROWS)}
    answer = door.root.post("/datasets", files=files, data={"name": "given"}, headers={"X-LTP-Project": "blue"})
    assert answer.status_code == 202
    assert "given" in {d["name"] for d in door.by(door.token("user", "blue")).get("/datasets").json()}
