"""Each service is killed while a job runs: the job still succeeds, trained by one process, each fact said once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from ltp.contracts.event import SERVICES
from tests.e2e.platform import RECIPE, Platform, eventually

pytestmark = [pytest.mark.slow, pytest.mark.training]


def test_a_job_survives_the_death_of_every_service_in_turn(
    platform: Platform,
    model: Path,
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "long.yaml"
    recipe.write_text(RECIPE.format(model=model, steps=400, save_every=200))
    job = platform.json("job", "submit", str(recipe))["job_id"]
    eventually(lambda: platform.json("job", "get", job)["state"] == "running", seconds=180)
    for service in SERVICES:
        before = platform.pid_of(service)
        os.kill(before, signal.SIGKILL)
        eventually(lambda name=service, old=before: is_ready_again(platform, name, old), seconds=60)
    (launcher,) = platform.launchers()
    assert launcher["state"] == "running", "the job was over before the last service was killed"
    done = platform.ltp("job", "metrics", job, "--follow", "--json", seconds=900)
    assert '"step": 400' in done.stdout
    assert platform.json("job", "get", job)["state"] == "succeeded", platform.logs()
    eventually(lambda: platform.ltp("compare", job, check=False).returncode == 0, seconds=300)
    (launcher,) = platform.launchers()
    assert (launcher["state"], launcher["exit_code"]) == ("exited", 0)
    counts = Counter(e["subject"] for e in platform.json("events", "list", "--job", job, "--limit", "5000"))
    for subject in ("ltp.attempt.v1.started", "ltp.attempt.v1.succeeded", "ltp.job.v1.succeeded"):
        assert counts[subject] == 1, counts
    assert (counts["ltp.checkpoint.v1.written"], counts["ltp.comparison.v1.completed"]) == (2, 1)
    steps = [line for line in platform.json_lines("job", "metrics", job) if "train/loss" in line["metrics"]]
    assert [line["step"] for line in steps] == list(range(1, 401))


def is_ready_again(platform: Platform, name: str, old: int) -> bool:
    """Whether a killed service runs as a new process."""
    found = next(p for p in platform.json("status")["processes"] if p["name"] == name)
    return bool(found["state"] == "ready" and found["pid"] != old)


def test_a_run_killed_on_its_host_is_tried_again_from_its_last_checkpoint(
    platform: Platform, model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "lost.yaml"
    recipe.write_text(RECIPE.format(model=model, steps=60, save_every=20))
    job = platform.json("job", "submit", str(recipe))["job_id"]
    eventually(lambda: platform.json("checkpoints", job), seconds=180)
    first = next(s for s in platform.launchers() if s["state"] == "running")
    # Everything of it at once, as when a host goes down: nobody is left to write how it ended.
    os.kill(first["launcher_pid"], signal.SIGKILL)
    os.killpg(first["pgid"], signal.SIGKILL)
    done = eventually(lambda: over(platform, job), seconds=300)
    assert done["state"] == "succeeded", platform.logs()
    lines = platform.json_lines("job", "metrics", job)
    second = [line["step"] for line in lines if line["attempt"] == 2 and "train/loss" in line["metrics"]]
    assert second[0] > 1, "the second attempt began anew"
    assert second[-1] == 60
    counts = Counter(e["subject"] for e in platform.json("events", "list", "--job", job, "--limit", "5000"))
    assert (counts["ltp.attempt.v1.lost"], counts["ltp.job.v1.queued"], counts["ltp.job.v1.succeeded"]) == (1, 2, 1)


def over(platform: Platform, job: str) -> dict[str, object] | None:
    """The job once it has ended."""
    found: dict[str, object] = platform.json("job", "get", job)
    return found if found["state"] in {"succeeded", "failed", "cancelled"} else None
