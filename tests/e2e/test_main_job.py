"""The main job at tiny size, by the commands a user has: dataset in, plan, train, watch, evaluate, compare."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import nats
import nats.aio.msg
import pytest
import websockets

from tests.conftest import until
from tests.e2e.platform import LTP, RECIPE, Platform, eventually, write_huge_model, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def recipe(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(model=model, steps=6, save_every=3))
    return path


@pytest.fixture(scope="module")
def job(platform: Platform, recipe: Path) -> str:
    """A job that has gone all its way."""
    job = platform.json("job", "submit", str(recipe))
    assert job["state"] == "submitted"
    eventually(lambda: platform.json("job", "get", job["job_id"])["state"] not in {"submitted", "planned", "queued"})
    lines = platform.ltp("job", "metrics", job["job_id"], "--follow", "--json", seconds=300).stdout.splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "train/loss" in line["metrics"]]
    assert steps == [1, 2, 3, 4, 5, 6]
    return str(job["job_id"])


def test_it_succeeds_and_says_each_fact_once(platform: Platform, job: str) -> None:
    assert platform.json("job", "get", job)["state"] == "succeeded", platform.logs()
    eventually(lambda: platform.ltp("compare", job, check=False).returncode == 0, seconds=180)
    events = platform.json("events", "list", "--job", job, "--limit", "1000")
    counts = Counter(event["subject"] for event in events)
    once = ["job.v1.submitted", "plan.v1.made", "job.v1.planned", "job.v1.queued", "attempt.v1.started"]
    once += ["job.v1.started", "attempt.v1.succeeded", "job.v1.succeeded", "comparison.v1.completed"]
    twice = ["checkpoint.v1.written", "checkpoint.v1.exported", "evaluation.v1.completed"]
    expected = {f"ltp.{name}": 1 for name in once} | {f"ltp.{name}": 2 for name in twice}
    assert counts == expected


async def test_its_log_is_the_same_over_a_websocket(platform: Platform, job: str) -> None:
    url = platform.json("status")["urls"]["gateway"]
    token = (platform.data / "secrets" / "token").read_text().strip()
    headers, wish = {"Authorization": f"Bearer {token}"}, {"id": "l", "topic": "logs", "job_id": job}

    async def told(**more: int) -> list[dict[str, Any]]:
        async with websockets.connect(
            url.replace("http", "ws", 1) + "/api/v1/events/ws", additional_headers=headers
        ) as at:
            await at.send(json.dumps(wish | more))
            found: list[dict[str, Any]] = []
            while "end" not in (said := json.loads(await asyncio.wait_for(at.recv(), 30))):
                found.append(said)
            return found

    page = httpx.get(f"{url}/api/v1/jobs/{job}/logs/stream", headers=headers, timeout=60).text
    lines = [json.loads(line[6:]) for line in page.splitlines() if line.startswith("data: {")]
    whole = "".join(line["text"] for line in lines if "text" in line)
    parts = await told()
    assert "".join(part["data"]["text"] for part in parts) == whole and "step:6" in whole
    half = len(whole.encode()) // 2
    rest = await told(attempt=1, after=half)
    assert "".join(part["data"]["text"] for part in rest) == whole.encode()[half:].decode()
    wish["job_id"] = "00000000-0000-0000-0000-000000000000"
    async with websockets.connect(url.replace("http", "ws", 1) + "/api/v1/events/ws", additional_headers=headers) as at:
        await at.send(json.dumps(wish))
        assert json.loads(await at.recv())["error"] == "not_found"


def test_its_causes_can_be_followed_back_to_the_submission(platform: Platform, job: str) -> None:
    events = {e["event_id"]: e for e in platform.json("events", "list", "--job", job, "--limit", "1000")}
    planned = next(e for e in events.values() if e["subject"] == "ltp.job.v1.planned")
    made = events[planned["cause"]]
    assert made["subject"] == "ltp.plan.v1.made"
    assert events[made["cause"]]["subject"] == "ltp.job.v1.submitted"


def test_its_checkpoints_are_models_that_load(platform: Platform, job: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = platform.json("checkpoints", job)
    assert [c["written"]["step"] for c in found] == [3, 6]
    path = found[-1]["exported"]["path"]
    assert AutoTokenizer.from_pretrained(path).chat_template
    assert AutoModelForCausalLM.from_pretrained(path).num_parameters() > 0


def test_its_scores_and_rows_can_be_read(platform: Platform, job: str) -> None:
    scores = platform.json("eval", job)["completed"]
    assert {s["subject_kind"] for s in scores} == {"base", "trained"}
    assert all(0 <= s["score"]["low"] <= s["score"]["accuracy"] <= s["score"]["high"] <= 1 for s in scores)
    shown = platform.json("compare", job, "--samples", "3")
    verdict = shown["comparison"]
    assert verdict["improved"] + verdict["regressed"] + verdict["unchanged"] == verdict["base"]["total"]
    assert len(shown["samples"]) == 3


def test_its_log_can_be_read(platform: Platform, job: str) -> None:
    assert "step:6" in platform.ltp("job", "logs", job).stdout


def test_the_devices_are_free_again(platform: Platform, job: str) -> None:
    def all_released() -> bool:
        events = platform.json("events", "list", "--limit", "5000")
        counts = Counter(e["subject"] for e in events)
        return counts["ltp.lease.v1.granted"] == counts["ltp.lease.v1.released"] > 0

    eventually(all_released, seconds=30)


def test_the_same_key_submits_once_and_another_recipe_under_it_is_refused(
    platform: Platform, recipe: Path, tmp_path: Path
) -> None:
    first = platform.json("job", "submit", str(recipe), "--key", "k1")
    again = platform.json("job", "submit", str(recipe), "--key", "k1")
    assert first["job_id"] == again["job_id"]
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("steps: 6", "steps: 7"))
    refused = platform.ltp("job", "submit", str(other), "--key", "k1", check=False)
    assert refused.returncode == 1
    assert "conflict" in refused.stderr
    platform.ltp("job", "cancel", first["job_id"])
    eventually(lambda: platform.json("job", "get", first["job_id"])["state"] == "cancelled")
    assert not [s for s in platform.launchers() if s["state"] == "running"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("steps: 6", "stepz: 6"), "invalid_recipe", "line 5"),
        (("name: tiny", "name: [tiny"), "invalid_yaml", "line"),
        (("name: sums", "name: nothing"), "dataset_not_ready", "nothing"),
        (("path: /", "path: /no/such/place/"), "model_not_found", "/no/such/place"),
        (("batch_size: 8", "batch_size: 5000"), "dataset_too_small", "5000"),
        (("max_length: 64", "max_length: 64000"), "invalid_recipe", "512 positions"),
        (("device_kind: cpu", "device_kind: gpu, devices: 64"), "no_host", "64 equal gpu"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_at_the_door(
    platform: Platform, recipe: Path, tmp_path: Path, change: tuple[str, str], code: str, said: str
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(recipe.read_text().replace(*change))
    jobs = len(platform.json("job", "list"))
    refused = platform.ltp("job", "submit", str(bad), check=False)
    assert refused.returncode in {1, 2}
    assert code in refused.stderr
    assert said in refused.stderr
    assert len(platform.json("job", "list")) == jobs


def test_a_dataset_row_without_an_answer_is_named(platform: Platform, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1 + 1", "response": "2"}\n{"prompt": "2 + 2", "response": ""}\n')
    refused = platform.ltp("dataset", "add", str(rows), check=False)
    assert refused.returncode == 1
    assert "dataset_row_without_answer" in refused.stderr
    assert "2" in refused.stderr


def test_nobody_enters_without_the_token(platform: Platform) -> None:
    url = platform.json("status")["urls"]["gateway"]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = httpx.get(f"{url}/api/v1/jobs", headers=headers)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "unauthenticated"


async def test_another_system_hears_events_with_a_plain_subscription(platform: Platform, tmp_path: Path) -> None:
    heard: list[nats.aio.msg.Msg] = []

    async def keep(message: nats.aio.msg.Msg) -> None:
        heard.append(message)

    client = await nats.connect(platform.json("status")["urls"]["nats"])
    await client.subscribe("ltp.>", cb=keep)
    await client.flush()
    write_rows(tmp_path / "more.jsonl", count=12)
    await asyncio.to_thread(platform.ltp, "dataset", "add", str(tmp_path / "more.jsonl"))
    await until(lambda: "ltp.dataset.v1.frozen" in {m.subject for m in heard})
    await client.close()
    frozen = next(m for m in heard if m.subject == "ltp.dataset.v1.frozen")
    assert (frozen.headers or {})["ce-type"] == frozen.subject
    assert json.loads(frozen.data)["rows"] == 12


def test_events_can_be_followed_from_the_terminal(platform: Platform, tmp_path: Path) -> None:
    environment = {**os.environ, "LTP_DATA_DIR": str(platform.data)}
    command = [LTP, "events", "tail", "--subject", "ltp.dataset.>", "--json"]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert tail.stdout is not None
        # The subscription stands once something is heard: say something until it is.
        reader = threading.Thread(target=lambda: lines.append(tail.stdout.readline()), daemon=True)
        lines: list[str] = []
        reader.start()

        def heard() -> bool:
            write_rows(tmp_path / "again.jsonl", count=12)
            platform.ltp("dataset", "add", str(tmp_path / "again.jsonl"), "--no-wait")
            reader.join(0.5)
            return bool(lines)

        eventually(heard, seconds=60)
    finally:
        tail.terminate()
        tail.wait(10)
    assert json.loads(lines[0])["subject"].startswith("ltp.dataset.v1.")


def test_the_stream_of_metrics_resumes_where_a_client_left_off(platform: Platform, job: str) -> None:
    url = platform.json("status")["urls"]["gateway"]
    token = (platform.data / "secrets" / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    whole = httpx.get(f"{url}/api/v1/jobs/{job}/metrics/stream", headers=headers, timeout=60).text
    ids = [line.removeprefix("id: ") for line in whole.splitlines() if line.startswith("id: ")]
    rest = httpx.get(
        f"{url}/api/v1/jobs/{job}/metrics/stream", headers={**headers, "Last-Event-ID": ids[2]}, timeout=60
    ).text
    assert [line.removeprefix("id: ") for line in rest.splitlines() if line.startswith("id: ")] == ids[3:]
    assert "event: end" in rest


def test_the_documentation_draws_itself_without_the_internet(platform: Platform) -> None:
    url = platform.json("status")["urls"]["gateway"]
    page = httpx.get(f"{url}/docs").text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    assert httpx.get(f"{url}/openapi.json").json()["openapi"].startswith("3.1")


def test_a_model_that_fits_no_device_is_refused_with_what_would_fit(
    platform: Platform, recipe: Path, model: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_text(recipe.read_text().replace(str(model), str(write_huge_model(tmp_path / "huge"))))
    refused = platform.ltp("job", "submit", str(huge), check=False)
    assert refused.returncode == 1
    assert "plan_does_not_fit" in refused.stderr
    assert "GiB" in refused.stderr
    assert "lora_rank" in refused.stderr or "smaller model" in refused.stderr
