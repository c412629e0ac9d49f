"""Evaluations as others start them: the first platform's call for all three kinds of model, and a job's own policy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.platform import RECIPE, Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An OpenAI-compatible endpoint that adds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.service.evaluator.stub"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


def triggered(platform: Platform, **body: Any) -> httpx.Response:
    """The call of the first platform."""
    dataset = next(d for d in platform.json("dataset", "list") if d["name"] == "sums")
    url = platform.json("status")["urls"]["gateway"]
    token = (platform.data / "secrets" / "token").read_text().strip()
    return httpx.post(
        f"{url}/api/v1/evaluation/trigger",
        json={"dataset_uuids": [dataset["dataset_id"]], "scorer": "numeric", "max_rows": 5, **body},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )


def completed(platform: Platform, response: httpx.Response) -> Any:
    assert response.status_code == 202, response.text
    (begun,) = response.json()["evaluations"]
    done = platform.json("eval", "wait", begun["evaluation_id"])
    assert done["state"] == "completed", done
    return done


def test_the_first_platforms_call_evaluates_an_endpoint_and_a_directory(
    platform: Platform, model: Path, endpoint: str
) -> None:
    api = completed(platform, triggered(platform, model_type="api", model_path="good", base_url=endpoint))
    assert api["result"]["accuracy"]["value"] == 1.0 and api["progress"]["right"] == 5
    here = completed(
        platform,
        triggered(platform, model_type="local_model", model_path=str(model), sampling={"max_new_tokens": 4}),
    )
    assert here["fingerprint"].startswith("sha256:") and here["total"] == 5
    for body, said in (
        ({"model_type": "api"}, "needs model_path"),
        ({"model_type": "checkpoint"}, "needs checkpoint_id"),
        ({"model_type": "else", "model_path": "x"}, "model_type"),
        ({"model_type": "local_model", "model_path": "/nowhere"}, "no model directory"),
    ):
        refused = triggered(platform, **body)
        assert 400 <= refused.status_code < 500 and said in refused.text


def test_answers_that_nobody_could_judge_are_judged_anew_and_verdicts_held_against_labels(
    platform: Platform, endpoint: str, tmp_path: Path
) -> None:
    run = ["eval", "run", "-d", "sums", "--api", endpoint, "--model", "weak", "--scorer", "choice"]
    (begun,) = platform.json(*run)
    platform.ltp("eval", "wait", begun["evaluation_id"], check=False)
    failed = platform.json("eval", "get", begun["evaluation_id"])
    assert failed["state"] == "failed" and failed["progress"]["without_reference"] == failed["total"] > 0
    again = platform.json("eval", "rescore", begun["evaluation_id"], "--scorer", "numeric", "--wait")
    assert again["state"] == "completed" and again["result"]["usage"]["cached"] == failed["total"]
    labels = tmp_path / "labels.csv"
    drawn = platform.json("eval", "draw", again["evaluation_id"], str(labels))
    assert drawn["answers"] == failed["total"]
    # Somebody who calls every answer right.
    labels.write_text(
        "\n".join(line.rstrip(",") + ",yes" if n else line for n, line in enumerate(labels.read_text().splitlines()))
    )
    found = platform.json("eval", "calibrate", again["evaluation_id"], str(labels))
    assert found["corrected"]["value"] == 1.0 and found["false_wrong"] == again["progress"]["wrong"] > 0


@pytest.mark.slow
def test_a_policy_evaluates_each_checkpoint_once_and_decides(platform: Platform, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "policy.yaml"
    text = RECIPE.format(model=model, steps=2, save_every=1)
    recipe.write_text(
        text.replace("max_new_tokens: 8}", "max_new_tokens: 8, checkpoints: every, gate: {min_accuracy: 0.9}}")
    )
    job = platform.json("job", "submit", str(recipe))["job_id"]

    def facts() -> Counter[str]:
        return Counter(e["subject"] for e in platform.json("events", "list", "--job", job, "--limit", "1000"))

    eventually(lambda: facts()["ltp.promotion.v1.decided"] == 2, 300)
    # Everything is said again: what is known starts nothing.
    platform.ltp("events", "refill")
    checkpoint = platform.json("checkpoints", job)[0]["written"]["checkpoint_id"]
    asked = triggered(platform, model_type="checkpoint", checkpoint_id=checkpoint, sampling={"max_new_tokens": 4})
    assert completed(platform, asked)["checkpoint_id"] == checkpoint
    found = [e for e in platform.json("eval", "list", "--job", job) if e["checkpoint_id"]]
    assert len({e["checkpoint_id"] for e in found}) == len(found) == 2
    counts = facts()
    assert counts["ltp.promotion.v1.decided"] == 2 and counts["ltp.checkpoint.v1.best-found"] >= 1, counts
    events = platform.json("events", "list", "--job", job, "--limit", "1000")
    decided = [e["data"] for e in events if e["subject"] == "ltp.promotion.v1.decided"]
    assert not any(d["promoted"] for d in decided) and "at least 90.0%" in json.dumps(decided)
