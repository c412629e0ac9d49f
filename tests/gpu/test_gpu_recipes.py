"""The recipes that run on processors, unchanged on a GPU: planned, launched, watched and exported by our own path.

Needs neither Postgres nor NATS, so that it runs on a bare GPU host with verl: `pytest -m gpu --confcutdir=tests/gpu
tests/gpu`, where LTP_DEMO_INPUT names a directory with the demo's `model` and `sums.jsonl` if its wheels are not there.
What was measured stands in the report of `-o junit_family=xunit1 --junitxml=FILE`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ltp.cli import __path__ as cli_path
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.memory import GIB
from ltp.core.model_config import read_architecture
from ltp.core.scoring import score
from ltp.planning.pools import HostFacts
from ltp.recipe_text import parse_recipe
from ltp.tensors.fsdp_export import export
from ltp.verl_recipe.verl_0_9 import launch_spec
from ltp_verl import demo_input
from services.dataset.files import FrozenVersion
from services.dataset.ingest import SourceFile, freeze
from services.evaluator.inference import InferenceServer
from services.evaluator.rows import read_rows
from services.planner.policy import choose
from services.runner.backends import LaunchStatus
from services.runner.backends.local import LocalBackend
from services.runner.host import describe
from services.runner.policy import Verdict, judge
from services.runner.traces import FoundCheckpoint, MetricsLine, find_checkpoints, read_metrics
from tests.service.runner.conftest import wait_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no nvidia-smi: this host has no NVIDIA GPU"),
]
Record = Callable[[str, object], None]
HELD_OUT = 0.2


@dataclass(frozen=True)
class Material:
    """The demo's model, and its rows as the dataset service freezes them."""

    model: Path
    version: FrozenVersion


@dataclass(frozen=True)
class Run:
    """A training that is over or still runs, read with the runner's own eyes."""

    recipe: Recipe
    plan: Plan
    directory: Path

    def status(self) -> LaunchStatus:
        status = asyncio.run(LocalBackend().status(self.directory))
        assert status is not None
        return status

    def metrics(self) -> list[MetricsLine]:
        return asyncio.run(read_metrics(LocalBackend(), self.directory, 0))

    def series(self, name: str) -> dict[int, float]:
        """Step -> value."""
        return {line.step: line.values[name] for line in self.metrics() if name in line.values}

    def last_step(self) -> dict[str, float]:
        """All that was measured in the last step; a validation alone is none."""
        return next(line.values for line in reversed(self.metrics()) if len(line.values) > 1)

    def checkpoints(self) -> list[FoundCheckpoint]:
        return asyncio.run(
            find_checkpoints(LocalBackend(), self.directory, set(), self.plan.devices, self.recipe.algorithm)
        )

    def log(self) -> str:
        return (self.directory / "log.txt").read_text(errors="replace")[-6000:]

    def end(self, seconds: float) -> Verdict:
        """The runner's verdict, once the process is over."""
        wait_for(lambda: self.status().state == "exited", seconds)
        saved = any(found.step == self.recipe.training.steps for found in self.checkpoints())
        return judge(self.status(), stop=None, final_step_saved=saved, log_tail=self.log())

    def seconds(self) -> float:
        """From launch to end."""
        status = self.status()
        assert status.ended_at is not None
        return (status.ended_at - status.started_at).total_seconds()

    def used_by_others_and_us(self) -> list[float]:
        """Bytes in use on the first GPU, as nvidia-smi said now and then."""
        lines = (self.directory / "samples.jsonl").read_text().splitlines()
        return [gpus[0]["memory_bytes"] for gpus in (json.loads(line)["gpus"] for line in lines) if gpus]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    directory = tmp_path_factory.mktemp("material")
    carried = os.environ.get("LTP_DEMO_INPUT")
    source = Path(carried) if carried else directory
    if carried is None:
        try:
            demo_input.write(directory)
        except (FileNotFoundError, ImportError) as missing:
            pytest.skip(f"no input: {missing}; set LTP_DEMO_INPUT")
    file = source / "sums.jsonl"
    versions = directory / "versions"
    version = freeze([SourceFile(file, file.name)], name="sums", holdout=HELD_OUT, versions_dir=versions, owner="gpu")
    return Material(source / "model", version)


@pytest.fixture(scope="module")
def trained(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo's recipe as it stands, over and successful."""
    run = _launch(_demo_recipe(material), material, tmp_path_factory.mktemp("sft") / "run")
    verdict = run.end(seconds=400)
    assert verdict.outcome == "succeeded", (verdict, run.log())
    return run


def _demo_recipe(material: Material, **training: object) -> Recipe:
    recipe = parse_recipe((Path(cli_path[0]) / "demo.yaml").read_text())
    settings = recipe.settings()
    settings["model"]["path"] = str(material.model)
    settings["training"] |= training
    return Recipe.model_validate(settings)


def _plan(recipe: Recipe) -> Plan:
    seen = asyncio.run(describe("here"))
    facts = HostFacts(seen.host_id, seen.devices, seen.memory_bytes, seen.cpus)
    arch = read_architecture(json.loads((Path(recipe.model.path) / "config.json").read_text()))
    return choose(recipe, arch, [facts])


def _launch(
    recipe: Recipe, material: Material, directory: Path, *, train: Path | None = None, resume_from: Path | None = None
) -> Run:
    """Plan and start as the runner does. `train` replaces the dataset's file."""
    plan, splits = _plan(recipe), material.version.splits
    spec = launch_spec(
        recipe,
        plan,
        python=sys.executable,
        run_dir=directory,
        model_path=Path(recipe.model.path),
        train_file=train or splits["train"].path,
        validation_file=None if train else splits["test"].path,
        train_rows=splits["train"].rows,
        device_indexes=[0],
        resume_from=resume_from,
    )
    asyncio.run(LocalBackend().launch(directory, spec))
    return Run(recipe, plan, directory)


def _accuracy(model: Path, material: Material, log: Path) -> float:
    rows = read_rows(material.version.splits["test"].path, 100)

    async def answers() -> list[str]:
        async with InferenceServer(model, log, device_kind="gpu", device_indexes=[0]) as server:
            completions = await server.complete([row.prompt for row in rows], max_new_tokens=24)
        assert not [completion.error for completion in completions if completion.error]
        return [completion.text for completion in completions]

    said = asyncio.run(answers())
    return sum(score("numeric", text, str(row.answer)) for text, row in zip(said, rows, strict=True)) / len(rows)


def _note_memory(run: Run, record_property: Record, prefix: str = "") -> tuple[float, float]:
    """Peak that the allocator handed out and the plan's prediction for it, in bytes, both also reported."""
    allocated = max(run.series(f"{prefix}perf/max_memory_allocated_gb").values()) * GIB
    predicted = run.plan.memory_bytes - run.plan.memory_components["context"]
    used = run.used_by_others_and_us()
    facts = {
        "allocated": allocated,
        "reserved": max(run.series(f"{prefix}perf/max_memory_reserved_gb").values()) * GIB,
        "predicted without context": predicted,
        "predicted": run.plan.memory_bytes,
        "upper bound": run.plan.memory_upper_bytes,
        "nvidia-smi most": max(used),
        "nvidia-smi first": used[0],
    }
    for name, size in facts.items():
        record_property(f"{name}, GiB", f"{size / GIB:.3f}")
    record_property("plan", run.plan.model_dump_json(exclude={"rejected"}))
    record_property("seconds", run.seconds())
    return allocated, predicted


def test_auto_takes_the_gpu_and_every_step_is_seen(trained: Run, record_property: Record) -> None:
    assert trained.plan.device_kind == "gpu"
    losses = trained.series("train/loss")
    record_property("losses", json.dumps(losses))
    record_property("validation", json.dumps(trained.series("val/loss")))
    record_property("last step", json.dumps(trained.last_step()))
    assert list(losses) == list(range(1, trained.recipe.training.steps + 1))
    assert losses[trained.recipe.training.steps] < losses[1] / 2
    assert [found.step for found in trained.checkpoints()] == [trained.recipe.training.steps]


def test_short_rows_stay_below_the_plan(trained: Run, record_property: Record) -> None:
    allocated, _ = _note_memory(trained, record_property)
    assert allocated < trained.plan.memory_upper_bytes


def test_rows_as_long_as_the_recipe_allows_need_what_the_plan_says(
    material: Material, tmp_path: Path, record_property: Record
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(material.version.splits["train"].path)
    turns = [[row[0], {"role": "assistant", "content": "7 + 8 = 15. " * 300}] for row in table["messages"].to_pylist()]
    index = table.schema.get_field_index("messages")
    long = table.set_column(index, table.schema.field(index), pa.array(turns, table.schema.field(index).type))
    pq.write_table(long, tmp_path / "long.parquet")
    recipe = _demo_recipe(material, steps=3, max_length=1024)
    run = _launch(recipe, material, tmp_path / "run", train=tmp_path / "long.parquet")
    verdict = run.end(seconds=400)
    assert verdict.outcome == "succeeded", (verdict, run.log())
    allocated, predicted = _note_memory(run, record_property)
    assert allocated < run.plan.memory_upper_bytes - run.plan.memory_components["context"]
    assert allocated > 0.95 * predicted


def test_what_the_gpu_wrote_becomes_a_model_that_answers_better(
    trained: Run, material: Material, tmp_path: Path, record_property: Record
) -> None:
    exported = export(trained.checkpoints()[-1].path, tmp_path / "model")
    record_property("exported", f"{exported.tensors} tensors, {exported.size_bytes} bytes, {exported.weights_sha256}")
    base = _accuracy(material.model, material, tmp_path / "base.log")
    after = _accuracy(Path(exported.path), material, tmp_path / "after.log")
    record_property("accuracy", f"{base:.2f} -> {after:.2f}")
    record_property("answered by", "vLLM" if importlib.util.find_spec("vllm") else "our own server")
    assert after > base


def test_a_stopped_run_goes_on_from_its_checkpoint(material: Material, tmp_path: Path) -> None:
    stopped = _launch(_demo_recipe(material, steps=100_000), material, tmp_path / "stopped")
    wait_for(lambda: stopped.series("train/loss") or stopped.status().state == "exited", seconds=300)
    asyncio.run(LocalBackend().request_stop(stopped.directory))
    stopped.end(seconds=120)
    assert (stopped.status().exit_code, stopped.status().reason) == (0, "stopped"), stopped.log()
    saved = stopped.checkpoints()[-1]
    assert saved.step == max(stopped.series("train/loss"))
    recipe = _demo_recipe(material, steps=saved.step + 2)
    resumed = _launch(recipe, material, tmp_path / "resumed", resume_from=saved.path)
    assert resumed.end(seconds=300).outcome == "succeeded", resumed.log()
    assert list(resumed.series("train/loss")) == [saved.step + 1, saved.step + 2]


def test_dpo_tells_right_sums_from_wrong_ones(material: Material, tmp_path: Path, record_property: Record) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Any] = pq.read_table(material.version.splits["train"].path)["messages"].to_pylist()
    said = [str(row[-1]["content"]) for row in rows]
    pairs = [
        {
            "messages": row,
            "chosen": [{"role": "assistant", "content": right}],
            "rejected": [{"role": "assistant", "content": wrong}],
        }
        for row, right, wrong in zip(rows, said, said[1:] + said[:1], strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    settings: dict[str, Any] = _demo_recipe(material, steps=12).settings() | {"algorithm": "dpo", "evaluation": None}
    run = _launch(Recipe.model_validate(settings), material, tmp_path / "run", train=tmp_path / "pairs.parquet")
    verdict = run.end(seconds=300)
    assert verdict.outcome == "succeeded", (verdict, run.log())
    losses, accuracy = run.series("train/loss"), run.series("dpo/accuracy")
    record_property("losses", json.dumps(losses))
    record_property("accuracy", json.dumps(accuracy))
    _note_memory(run, record_property)
    # Before the first update the policy is its reference, so a pair costs ln 2.
    assert losses[1] == pytest.approx(0.693147, abs=2e-3)
    assert losses[12] < 0.5 and accuracy[12] > 0.8


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_grpo_generates_with_vllm(material: Material, tmp_path: Path, record_property: Record) -> None:
    settings: dict[str, Any] = _demo_recipe(material, steps=5, learning_rate=1e-5, max_length=96).settings()
    settings |= {"algorithm": "grpo", "evaluation": None}
    settings["reinforcement"] = {"samples_per_prompt": 4, "max_response_length": 24, "scorer": "numeric"}
    run = _launch(Recipe.model_validate(settings), material, tmp_path / "run")
    verdict = run.end(seconds=540)
    assert verdict.outcome == "succeeded", (verdict, run.log())
    rewards = run.series("critic/rewards/mean")
    record_property("rewards", json.dumps(rewards))
    record_property("last step", json.dumps(run.last_step()))
    assert list(rewards) == [1, 2, 3, 4, 5]
    # What vLLM sampled with is what is trained: bf16 rounding apart.
    assert max(run.series("training/rollout_probs_diff_mean").values()) < 0.02
    assert not (run.directory / "reward_errors.jsonl").exists()
    _note_memory(run, record_property, "actor/")
    assert max(run.used_by_others_and_us()) < run.plan.memory_upper_bytes
    exported = export(run.checkpoints()[-1].path / "actor", tmp_path / "model")
    record_property("exported", f"{exported.tensors} tensors, {exported.size_bytes} bytes")
