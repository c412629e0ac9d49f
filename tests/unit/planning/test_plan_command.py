"""`ltp plan` from the shell on described hardware, as a user without a platform calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plan_grid import MODELS

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """\
name: big
algorithm: {algorithm}
model: {{path: {model}}}
dataset: {{name: d}}
training: {{steps: 100, batch_size: 64, learning_rate: 1.0e-6, max_length: {length}}}
{more}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["qwen2.5-7b"]))

    def write(algorithm: str = "sft", length: int = 2048, more: str = "") -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.format(algorithm=algorithm, model=tmp_path, length=length, more=more))
        return file

    return write


def ltp(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "ltp.cli.main", "plan", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'libs'}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def said(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))


def test_a_ranked_report_with_verls_overrides_and_nothing_heavy_imported(recipe: Any) -> None:
    more = "reinforcement: {max_response_length: 512}\nresources: {devices: 8}"
    done = ltp(recipe("grpo", more=more), "--hardware", "h100:8", "--json")
    assert done.returncode == 0, said(done)
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and found["device_model"] == "H100-SXM" and found["plans"][0]["eta_seconds"] > 0
    assert found["stages"] and found["checkpoint_bytes"] > 80e9 and found["host_memory_bytes"] > 0
    share = found["rollout_memory_share"]
    assert f"actor_rollout_ref.rollout.gpu_memory_utilization={share}" in found["overrides"]
    times = [plan["step_seconds"] for plan in found["plans"][:3]]
    assert times == sorted(times) or max(times) < min(times) * 1.1
    heavy = ("torch", "transformers", "sqlalchemy", "faststream", "httpx", "rich.console", "asyncio")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & set(heavy)


def test_explain_says_what_would_help_and_exits_1(recipe: Any) -> None:
    done = ltp("explain", recipe(more="resources: {device_kind: gpu}"), "--hardware", "rtx 4090")
    assert done.returncode == 1
    assert (
        "plan_does_not_fit" in done.stdout and "what would help" in done.stdout and "too much, most for" in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--hardware", "h300"), 2, "nearest are H200"),
        (("--hardware", "h100:x"), 2, "no number of devices"),
        (("--hardware", "h100", "--objective", "best"), 2, "resources.objective"),
        (("--hardware", "h100", "--devices", "0"), 2, "--devices is '0'"),
        (("--hardware", "h100", "--budget", "-1"), 2, "budget_dollars"),
        (("--hardware", "h100", "--rows", "3"), 1, "training.batch_size is 64"),
        (("--hardware", "h100:8", "--devices", "16"), 1, "the best host has 8"),
    ],
)
def test_what_cannot_be_says_which_word_is_wrong(
    recipe: Any, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = ltp(recipe(), *arguments)
    assert (done.returncode, words in said(done)) == (code, True), said(done)


def test_a_sequence_longer_than_the_model(recipe: Any) -> None:
    done = ltp(recipe(length=40_000), "--hardware", "h100:8")
    assert done.returncode == 2 and "training.max_length is 40000, and the model has 32768 positions" in said(done)


def test_absurd_numbers_name_the_field(recipe: Any) -> None:
    done = ltp(recipe(length=10**30), "--hardware", "h100:8")
    assert done.returncode == 2 and "max_length is 1e+30" in said(done)


def test_the_table_of_hardware_has_sources() -> None:
    rows = json.loads(ltp("hardware", "--json").stdout)
    assert {"H200", "A100-40GB", "RTX-3090", "Apple-M3-Ultra"} <= {row["name"] for row in rows}
    assert all(row["source"] for row in rows)
