"""Merges as a user asks for them: by command, through the gateway and the queue, to a model with a card and a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.platform import Platform

pytestmark = pytest.mark.e2e


def recipe(tmp_path: Path, *models: Path) -> str:
    lines = ["merge_method: linear", "models:"]
    lines += [f"  - {{model: {model}, parameters: {{weight: 1}}}}" for model in models]
    (tmp_path / "merge.yaml").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "merge.yaml")


def other(model: Path, tmp_path: Path) -> Path:
    """A second model: the same weights, another configuration of its own."""
    copy = tmp_path / "other"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_merge_from_command_to_verdict(platform: Platform, model: Path, tmp_path: Path) -> None:
    config = recipe(tmp_path, model, other(model, tmp_path))
    plan = platform.json("merge", config, "--out", "twin", "--dry-run")
    assert plan["method"] == "linear" and not plan["reused"] and plan["write_bytes"] > 0
    done = platform.json("merge", config, "--out", "twin", "--wait")
    assert done["state"] == "succeeded", done
    out = Path(done["result"]["path"])
    assert out == platform.data / "models" / "twin" and done["result"]["digest"] == plan["digest"]
    # Two equal models have themselves as their mean.
    assert (out / "model.safetensors").stat().st_size > 0 and done["result"]["proof"]["loads"]
    assert json.loads((out / "manifest.json").read_text())["digest"] == plan["digest"]
    assert platform.json("merge", config, "--out", "twin", "--wait")["result"]["reused"]
    platform.ltp("operation", "reject", done["operation_id"], "--note", "only a test")
    subjects = [
        e["subject"] for e in platform.json("events", "list", "--limit", "10000") if e["about"] == done["operation_id"]
    ]
    assert subjects[:3] == [f"ltp.operation.v1.{word}" for word in ("requested", "started", "succeeded")]


def test_what_cannot_work_is_refused_at_the_door(platform: Platform, model: Path, tmp_path: Path) -> None:
    before = len(platform.json("operation", "list"))
    missing = platform.ltp("merge", recipe(tmp_path, model, tmp_path / "no"), "--out", "never", check=False)
    assert missing.returncode == 1 and "There is no model directory" in missing.stderr
    outside = platform.ltp("merge", recipe(tmp_path, model), "--out", "../never", check=False)
    assert outside.returncode == 2
    traversal = platform.ltp("merge", recipe(tmp_path, Path("../nowhere-at-all")), "--out", "never", check=False)
    assert traversal.returncode != 0 and "leads out of its directory" in traversal.stderr
    # This machine has no GPU: said at once, and `auto` does without.
    config = recipe(tmp_path, model, other(model, tmp_path))
    for more in (["--dry-run"], []):
        without = platform.ltp("merge", config, "--out", "never", "--device", "gpu", *more, check=False)
        assert without.returncode == 1 and "No machine of the platform has a GPU" in without.stderr
        assert "auto" in without.stderr
    assert "device_bytes" not in platform.json("merge", config, "--out", "never", "--device", "auto", "--dry-run")
    export = platform.ltp("export", str(model), "--out", "never", "--dry-run", check=False)
    assert export.returncode == 0, export.stderr
    strange = platform.ltp("operation", "get", "00000000-0000-0000-0000-000000000000", check=False)
    assert strange.returncode == 1 and "There is no operation" in strange.stderr
    assert len(platform.json("operation", "list")) == before
