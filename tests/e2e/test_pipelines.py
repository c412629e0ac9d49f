"""A pipeline on real training, by the commands a user has: it succeeds, is reused, fails at its gate, and is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Platform, eventually, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.training]

PIPELINE = """\
name: nightly
stages:
  data:
    kind: dataset
    settings: {{name: pipeline-sums, path: {rows}, holdout: 0.2}}
  train:
    kind: train
    settings:
      recipe:
        name: tiny
        model: {{path: {model}}}
        dataset: {{name: {{from: data.name}}, version: {{from: data.version}}}}
        training: {{steps: 3, batch_size: 8, learning_rate: 1.0e-3, max_length: 64}}
        resources: {{device_kind: cpu}}
  saved:
    kind: export
    settings: {{job: {{from: train.job_id}}, step: 3}}
  soup:
    kind: average
    settings: {{name: soup, models: [{{from: saved.path}}, {model}], proof: false}}
  blend:
    kind: merge
    settings:
      name: blend
      proof: false
      recipe:
        merge_method: linear
        models:
          - {{model: {{from: soup.path}}, parameters: {{weight: 0.5}}}}
          - {{model: {model}, parameters: {{weight: 0.5}}}}
  gate:
    kind: gate
    needs: [blend]
    settings:
      conditions:
        - {{value: {{from: train.steps}}, at_most: {at_most}}}
"""
STAGES = ("data", "train", "saved", "soup", "blend", "gate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def nightly(folder: Path, model: Path) -> Path:
    write_rows(folder / "rows.jsonl", count=40)
    path = folder / "nightly.yaml"
    path.write_text(PIPELINE.format(rows=folder / "rows.jsonl", model=model, at_most=3))
    return path


@pytest.fixture(scope="module")
def run(platform: Platform, nightly: Path) -> Any:
    done = platform.ltp("pipeline", "submit", str(nightly), "--wait", "--json", check=False, seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr + platform.logs()
    return platform.json("pipeline", "list")[0]


def states(platform: Platform, run_id: str) -> dict[str, str]:
    return {stage["key"]: stage["state"] for stage in platform.json("pipeline", "get", run_id)["stages"]}


def test_it_succeeds_and_what_was_made_from_what_is_known(platform: Platform, run: Any) -> None:
    run_id = run["run_id"]
    assert states(platform, run_id) == dict.fromkeys(STAGES, "succeeded")
    stages = {stage["key"]: stage for stage in platform.json("pipeline", "get", run_id)["stages"]}
    job = platform.json("job", "get", stages["train"]["outputs"]["job_id"])
    assert job["state"] == "succeeded" and Path(stages["train"]["outputs"]["path"], "config.json").exists()
    made = platform.json("pipeline", "lineage", stages["train"]["digest"])
    assert made[0]["inputs"]["data"] == stages["data"]["digest"]
    assert stages["data"]["digest"] in {each["digest"] for each in made}


def test_models_are_exported_averaged_and_merged(platform: Platform, run: Any) -> None:
    from safetensors import safe_open

    found = platform.json("pipeline", "get", run["run_id"])["stages"]
    outputs = {stage["key"]: stage["outputs"] for stage in found}
    assert outputs["saved"]["digest"] == outputs["train"]["digest"]

    def weight(key: str) -> Any:
        with safe_open(str(Path(outputs[key]["path"], "model.safetensors")), framework="np") as file:
            return file.get_tensor("model.norm.weight")

    trained, soup, blend = (weight(key) for key in ("saved", "soup", "blend"))
    # blend = (soup + base) / 2 and soup = (trained + base) / 2, so that base = 2 * soup - trained.
    assert abs(blend - (1.5 * soup - 0.5 * trained)).max() < 1e-2
    assert platform.json("operation", "get", outputs["soup"]["operation_id"])["state"] == "succeeded"


def test_again_it_is_reused_and_a_look_ahead_says_so(platform: Platform, run: Any, nightly: Path) -> None:
    foreseen = platform.json("pipeline", "submit", str(nightly), "--dry-run")["stages"]
    assert {stage["key"]: stage["fate"] for stage in foreseen} == dict.fromkeys(STAGES, "reuse") | {"gate": "run"}
    jobs = len(platform.json("job", "list"))
    again = platform.json("pipeline", "submit", str(nightly), "--wait")
    assert states(platform, again["run_id"]) == dict.fromkeys(STAGES, "reused") | {"gate": "succeeded"}
    assert len(platform.json("job", "list")) == jobs


def test_a_closed_gate_fails_the_run_and_resuming_it_asks_the_gate_again(
    platform: Platform, run: Any, nightly: Path, folder: Path
) -> None:
    strict = folder / "strict.yaml"
    strict.write_text(nightly.read_text().replace("at_most: 3", "at_most: 2").replace("nightly", "strict"))
    failed = platform.ltp("pipeline", "submit", str(strict), "--wait", check=False, seconds=120)
    assert failed.returncode == 1
    run_id = platform.json("pipeline", "list")[0]["run_id"]
    found = platform.json("pipeline", "get", run_id)
    assert found["state"] == "failed" and "The gate is closed" in found["problem"]["message"]
    platform.ltp("pipeline", "resume", run_id)

    def resumed() -> bool:
        now = platform.json("pipeline", "get", run_id)
        return now["round"] == 2 and now["state"] == "failed"

    eventually(resumed, seconds=30)
    assert states(platform, run_id) == dict.fromkeys(STAGES, "reused") | {"gate": "failed"}
    refused = platform.ltp("pipeline", "resume", run["run_id"], check=False)
    assert refused.returncode == 1 and "succeeded" in refused.stderr


def test_a_schedule_runs_a_pipeline_and_its_tick_ends_with_it(platform: Platform, run: Any, nightly: Path) -> None:
    platform.ltp("schedule", "create", "each-night", "--cron", "0 3 * * *", "--pipeline", str(nightly))
    platform.ltp("schedule", "run-now", "each-night")

    def tick() -> Any:
        found = platform.json("schedule", "ticks", "each-night")
        return found[0] if found and found[0]["state"] == "succeeded" else None

    ended = eventually(tick, seconds=60)
    assert states(platform, ended["noun_id"]) == dict.fromkeys(STAGES, "reused") | {"gate": "succeeded"}
    platform.ltp("schedule", "delete", "each-night")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from: data.name", "from: nothing.name", "nothing"),
        ("kind: gate", "kind: portal", "portal"),
        ("needs: [blend]", "needs: [gate]", "circle"),
        ("at_most: 3", "at_most: 3, above: 1", "exactly one"),
        ("rows.jsonl", "none.jsonl", "none.jsonl"),
        ("step: 3", "step: 2", "no checkpoint is written at step 2"),
        ("step: 3", "step: 4", "the training has 3 steps"),
        ("merge_method: linear", "merge_method: blender", "blender"),
        ("weight: 0.5", "wait: 0.5", "wait"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused_at_the_door(
    platform: Platform, nightly: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    bad = tmp_path / "bad.yaml"
    assert old in nightly.read_text()
    bad.write_text(nightly.read_text().replace(old, new))
    refused = platform.ltp("pipeline", "submit", str(bad), check=False)
    assert refused.returncode in {1, 2} and said in refused.stderr
