"""What the platform does for a run beside training it: keeps the right checkpoints, tells its progress, ends a hang, writes sinks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import RECIPE, Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.training]


def write_recipe(path: Path, model: Path, steps: int, save_every: int, *sections: str) -> Path:
    """A recipe without an evaluation, with sections of its own."""
    lines = RECIPE.format(model=model, steps=steps, save_every=save_every).splitlines()
    kept = [line for line in lines if not line.startswith("evaluation")]
    path.write_text("\n".join([*kept, *sections]) + "\n")
    return path


@pytest.fixture(scope="module")
def done(platform: Platform, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that has kept its last two checkpoints and the worst one, and has written TensorBoard's files."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("recipe") / "kept.yaml",
        model,
        12,
        2,
        # The largest loss is that of the beginning, so that the best by this rule is no new one.
        "checkpoints: {keep_last: 2, keep_best: 1, metric: train/loss, direction: max}",
        "tracking: [tensorboard]",
    )
    job = str(platform.json("job", "submit", str(recipe))["job_id"])
    eventually(lambda: platform.json("job", "get", job)["state"] == "succeeded", seconds=300)
    return job


def kept(platform: Platform, job: str) -> dict[int, Any]:
    return {found["step"]: found for found in platform.json("checkpoint", "list", job)}


def folders(platform: Platform, job: str) -> set[int]:
    run = platform.json("job", "get", job)["run_id"]
    found = (platform.data / "runs" / run).glob("attempt-*/checkpoints/global_step_*")
    return {int(path.name.rpartition("_")[2]) for path in found}


def test_the_last_and_the_best_stay_and_a_user_has_the_last_word(platform: Platform, done: str) -> None:
    eventually(lambda: set(kept(platform, done)) == {2, 10, 12}, seconds=90)
    assert folders(platform, done) == {2, 10, 12}
    # Until then its export keeps it as well.
    eventually(lambda: kept(platform, done)[10]["kept_because"] == ["one of the last 2"], seconds=90)
    assert kept(platform, done)[2]["kept_because"] == ["one of the best 1"]
    assert "the newest one, from which the job resumes" in kept(platform, done)[12]["kept_because"]
    removed = platform.json("events", "list", "--subject", "ltp.checkpoint.v1.removed")
    assert {e["data"]["step"] for e in removed if e["job_id"] == done} == {4, 6, 8}

    platform.ltp("checkpoint", "pin", f"{done}@10")
    eventually(lambda: kept(platform, done)[10]["pinned"])
    for step, why in ((10, "pinned"), (12, "the newest one")):
        refused = platform.ltp("checkpoint", "remove", f"{done}@{step}", check=False)
        assert (refused.returncode, why in refused.stderr) == (1, True)
    dry = platform.ltp("checkpoint", "remove", f"{done}@2", "--dry-run").stdout
    assert "Nothing was done" in dry
    platform.ltp("checkpoint", "unpin", f"{done}@10")
    eventually(lambda: not kept(platform, done)[10]["pinned"])
    platform.ltp("checkpoint", "remove", f"{done}@10")
    eventually(lambda: 10 not in kept(platform, done), seconds=60)
    assert folders(platform, done) == {2, 12}
    # The models that were exported from them are still there.
    assert len(list((platform.data / "models" / done).glob("step-*/model.safetensors"))) == 6


def test_progress_and_the_curve_in_tensorboard(platform: Platform, done: str) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = platform.json("job", "progress", done)
    assert (found["step"], found["steps"], found["eta_seconds"]) == (12, 12, None)
    assert found["tokens_per_second"] > 0
    assert found["step_seconds"] > 0
    run = platform.json("job", "get", done)["run_id"]
    events = accumulator.EventAccumulator(str(platform.data / "runs" / run / "tracking" / "tensorboard"))
    events.Reload()
    lines = platform.json_lines("job", "metrics", done)
    logged = {line["step"]: line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]}
    written = {scalar.step: scalar.value for scalar in events.Scalars("train/loss")}
    assert written == pytest.approx(logged, rel=1e-6)


def test_a_sink_whose_package_is_missing_is_refused_at_the_door(
    platform: Platform, model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ltp_verl.check")
    if __import__("importlib").util.find_spec("mlflow") is not None:
        pytest.skip("mlflow is installed here")
    recipe = write_recipe(tmp_path / "sink.yaml", model, 2, 2, "tracking: [mlflow]")
    refused = platform.ltp("job", "submit", str(recipe), check=False)
    assert refused.returncode == 1
    assert "dependency_missing" in refused.stderr
    assert "mlflow" in refused.stderr


def test_a_hang_ends_with_the_stacks_and_is_tried_again(platform: Platform, model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "hang.yaml", model, 100_000, 50_000)
    recipe.write_text(recipe.read_text().replace("device_kind: cpu", "device_kind: cpu, stall_limit_seconds: 6"))
    job = str(platform.json("job", "submit", str(recipe))["job_id"])
    eventually(lambda: len(platform.json_lines("job", "metrics", job)) > 2)
    run = platform.json("job", "get", job)["run_id"]
    [status] = [s for s in platform.launchers() if s["state"] == "running" and s["pid"]]
    os.kill(status["pid"], signal.SIGSTOP)
    problem = eventually(lambda: platform.json("job", "why", job)["problem"])
    assert problem["code"] == "training_stalled"
    assert any("state T" in line for line in problem["evidence"]), problem
    assert (platform.data / "runs" / run / "attempt-1" / "stacks").is_dir()
    assert not Path(f"/proc/{status['pid']}").exists()
    platform.ltp("job", "cancel", job)
    eventually(lambda: platform.json("job", "get", job)["state"] == "cancelled")
    assert [s for s in platform.launchers() if s["state"] == "running"] == []
