"""From the checkpoints of a training to the model that is kept: average, select, export, evaluate, on a real platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.platform import RECIPE, Platform, eventually

# Minutes on two cores: run by `make slow`.
pytestmark = [pytest.mark.e2e, pytest.mark.training, pytest.mark.slow]


@pytest.fixture(scope="module")
def job(platform: Platform, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job with three checkpoints, all of them models."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    text = RECIPE.format(model=model, steps=3, save_every=1)
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("evaluation")) + "\n")
    job = str(platform.json("job", "submit", str(path))["job_id"])

    def exported() -> bool:
        assert platform.json("job", "get", job)["state"] != "failed", platform.logs()
        found = platform.json("checkpoints", job)
        return len(found) == 3 and all(c["exported"] for c in found)

    eventually(exported, seconds=240)
    return job


def test_from_checkpoints_to_a_model_that_loads(platform: Platform, job: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = platform.json("checkpoints", job)
    paths = [c["exported"]["path"] for c in found]
    plan = platform.json("average", job, "--last", "2", "--out", "mean", "--dry-run")
    assert [w["model"] for w in plan["weights"]] == paths[1:]
    mean = platform.json("average", job, "--last", "2", "--out", "mean", "--no-proof", "--wait")
    assert mean["state"] == "succeeded", mean
    scores = {
        "candidates": [{"model": p, "score": s, "rows": 100} for p, s in zip(paths, (0.2, 0.5, 0.52), strict=True)]
    }
    scores["candidates"].append({"model": "mean", "score": 0.4, "rows": 100})
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    chosen = platform.json("select", str(tmp_path / "scores.json"), "--out", "chosen", "--no-proof", "--wait")
    # 0.5 and 0.52 of a hundred rows are the same within the uncertainty: the earlier step.
    assert chosen["result"]["report"]["chosen"] == paths[1]
    out = platform.json(
        "export", found[2]["written"]["checkpoint_id"], "--out", "final", "--dtype", "bfloat16", "--wait"
    )
    assert out["state"] == "succeeded" and out["result"]["report"]["verified"] and out["result"]["proof"]["loads"]
    assert str(AutoModelForCausalLM.from_pretrained(out["result"]["path"], dtype="auto").dtype) == "torch.bfloat16"
    diff = platform.json("operation", "diff", "mean", "--base", paths[2], "--out", "distance", "--wait")
    assert 0 < diff["result"]["report"]["whole"]["relative_change"] < 1


@pytest.mark.slow
def test_an_evaluation_follows_and_decides(platform: Platform, job: str) -> None:
    wish = {"datasets": [{"name": "sums"}], "scorer": "numeric", "max_rows": 5, "min_accuracy": 1.0}
    wish |= {"sampling": {"max_new_tokens": 4}}
    asked = platform.json("average", job, "--out", "judged", "--no-proof", "--evaluate", json.dumps(wish), "--wait")
    assert asked["state"] == "succeeded"
    done = eventually(lambda: (o := platform.json("operation", "get", asked["operation_id"]))["decision"] and o, 240)
    assert done["decision"] == "rejected" and "does not reach 1" in done["decision_note"]
    unknown = platform.ltp("average", job, "--out", "never", "--evaluate", "nothing", check=False)
    assert unknown.returncode == 1 and "There is no frozen dataset nothing" in unknown.stderr


def test_ids_that_are_no_checkpoints_are_named(platform: Platform) -> None:
    strange = platform.ltp("export", "00000000-0000-0000-0000-000000000000", "--out", "never", check=False)
    assert strange.returncode == 1 and "is no checkpoint" in strange.stderr
