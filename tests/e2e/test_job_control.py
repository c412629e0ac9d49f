"""Pause, resume, hold, clone, retry and why, by the commands a user has, on real training."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import RECIPE, Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def long_recipe(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Too long to end by itself during a test, without an evaluation."""
    path = tmp_path_factory.mktemp("recipe") / "long.yaml"
    text = RECIPE.format(model=model, steps=100_000, save_every=50_000)
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("evaluation")))
    return path


def state(platform: Platform, job: str) -> str:
    return str(platform.json("job", "get", job)["state"])


def wait_for(platform: Platform, job: str, wanted: str) -> Any:
    eventually(lambda: state(platform, job) == wanted, seconds=120)
    return platform.json("job", "get", job)


def steps(platform: Platform, job: str) -> list[int]:
    return [line["step"] for line in platform.json_lines("job", "metrics", job) if "train/loss" in line["metrics"]]


def causes(platform: Platform, job: str) -> list[str]:
    return [reason["cause"] for reason in platform.json("job", "why", job)["reasons"]]


def test_a_paused_job_frees_its_devices_keeps_its_place_and_goes_on_where_it_was(
    platform: Platform, long_recipe: Path
) -> None:
    job = platform.json("job", "submit", str(long_recipe))["job_id"]
    eventually(lambda: len(steps(platform, job)) >= 3)
    assert causes(platform, job) == ["running"]
    # Another one waits for the devices, and says for whom.
    other = platform.json("job", "submit", str(long_recipe), "--hold")["job_id"]
    wait_for(platform, other, "paused")
    assert causes(platform, other) == ["paused"]
    platform.ltp("job", "resume", other)
    wait_for(platform, other, "queued")
    why = eventually(lambda: found if (found := platform.json("job", "why", other))["turn"] == 1 else None)
    assert (why["reasons"][0]["cause"], job in why["reasons"][0]["message"]) == ("busy", True)

    assert "saves and leaves" in platform.json("job", "pause", job)["message"]
    paused = wait_for(platform, job, "paused")
    assert paused["checkpoint_step"] == steps(platform, job)[-1]
    wait_for(platform, other, "running")
    assert "nothing was done" in platform.json("job", "pause", job)["message"]

    platform.ltp("job", "resume", job)
    wait_for(platform, job, "queued")
    platform.ltp("job", "cancel", other)
    eventually(lambda: len(steps(platform, job)) > paused["checkpoint_step"])
    lines = [line for line in platform.json_lines("job", "metrics", job) if "train/loss" in line["metrics"]]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "a step is missing or was done twice"
    assert [line["attempt"] for line in lines[: paused["checkpoint_step"] + 1]] == [1] * paused["checkpoint_step"] + [2]

    platform.ltp("job", "cancel", job)
    wait_for(platform, job, "cancelled")
    refused = platform.ltp("job", "resume", job, check=False)
    assert (refused.returncode, "ltp job retry" in refused.stderr) == (1, True)
    leftovers = [status for status in platform.launchers() if status["state"] == "running"]
    assert leftovers == []


def test_a_cancelled_job_is_retried_from_its_checkpoint_and_cloned_with_changes(
    platform: Platform, long_recipe: Path
) -> None:
    job = platform.json("job", "submit", str(long_recipe))["job_id"]
    eventually(lambda: len(steps(platform, job)) >= 2)
    platform.ltp("job", "pause", job)
    step = wait_for(platform, job, "paused")["checkpoint_step"]
    platform.ltp("job", "cancel", job)
    wait_for(platform, job, "cancelled")
    # Cancelled twice, it says that there is nothing to do.
    assert platform.ltp("job", "cancel", job, check=False).returncode == 1

    again = platform.json("job", "retry", job)
    assert f"step {step}" in again["message"]
    eventually(lambda: steps(platform, again["job_id"]))
    assert steps(platform, again["job_id"])[0] == step + 1
    platform.ltp("job", "cancel", again["job_id"])

    tried = platform.json("job", "clone", job, "--set", "training.steps=2", "--dry-run")
    assert tried["recipe"]["training"]["steps"] == 2
    copy = platform.json("job", "clone", job, "--set", "training.steps=2", "--set", "training.save_every=1")
    assert wait_for(platform, copy["job_id"], "succeeded")["options"]["parent_job_id"] == job
    wrong = platform.ltp("job", "clone", job, "--set", "training.stepz=2", check=False)
    assert (wrong.returncode, "stepz" in wrong.stderr) == (2, True)


def test_a_killed_training_process_is_tried_again_after_a_pause_with_its_evidence(
    platform: Platform, long_recipe: Path
) -> None:
    job = platform.json("job", "submit", str(long_recipe), "--max-attempts", "2")["job_id"]
    eventually(lambda: steps(platform, job))
    (running,) = [status for status in platform.launchers() if status["state"] == "running"]
    os.killpg(running["pgid"], signal.SIGKILL)
    eventually(lambda: "backing_off" in causes(platform, job))
    why = platform.json("job", "why", job)
    assert why["problem"]["code"] == "training_killed"
    assert why["problem"]["evidence"]
    assert why["not_before"] is not None
    platform.ltp("job", "cancel", job)
    wait_for(platform, job, "cancelled")


def test_a_host_can_be_labelled_and_cordoned_and_jobs_say_that_they_wait_for_it(
    platform: Platform, long_recipe: Path
) -> None:
    (host,) = platform.json("host", "list")
    name = host["host_id"]
    assert platform.json("host", "label", name, "disk=nvme")["labels"] == {"disk": "nvme"}
    eventually(lambda: platform.json("host", "get", name)["labels"] == {"disk": "nvme"})
    platform.ltp("host", "cordon", name)
    eventually(lambda: platform.json("host", "get", name)["state"] == "cordoned")
    job = platform.json("job", "submit", str(long_recipe))["job_id"]
    eventually(lambda: causes(platform, job) == ["cordoned"])
    platform.ltp("host", "uncordon", name)
    wait_for(platform, job, "running")
    holding = platform.json("host", "get", name)["holdings"][0]
    assert (holding["job_id"], holding["device_indexes"]) == (job, [0])
    platform.ltp("job", "cancel", job)
    wait_for(platform, job, "cancelled")
    eventually(lambda: platform.json("host", "get", name)["holdings"] == [])
    missing = platform.ltp("host", "cordon", "nowhere", check=False)
    assert (missing.returncode, "no host nowhere" in missing.stderr) == (1, True)


def test_a_key_used_for_other_options_is_refused(platform: Platform, long_recipe: Path) -> None:
    words = ["job", "submit", str(long_recipe), "--hold", "--key", "once"]
    first = json.loads(platform.ltp(*words, "--json").stdout)["job_id"]
    assert json.loads(platform.ltp(*words, "--json").stdout)["job_id"] == first
    other = platform.ltp(*words, "--priority", "5", check=False)
    assert (other.returncode, "other options" in other.stderr) == (1, True)
    platform.ltp("job", "cancel", first)
    wait_for(platform, first, "cancelled")
