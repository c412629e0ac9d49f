"""Real training with the installed verl: it accepts what we emit, and a run stops, resumes and ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.algorithms import PRESETS
from ltp.verl_recipe import LaunchSpec
from ltp.verl_recipe.verl_0_9 import checkpoint_files, launch_spec, parse_metrics_line
from services.runner.backends.local import LocalBackend
from tests.service.runner.conftest import Attempt, wait_for
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.training, pytest.mark.asyncio]
ROWS = 24


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and the rows of a dataset version."""
    directory = tmp_path_factory.mktemp("material")
    write_tiny_model(directory / "model")
    pq.write_table(pa.Table.from_pylist([_row(i) for i in range(ROWS)]), directory / "train.parquet")
    return directory


def _row(index: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"{index % 10}+{index % 7}="}]
    answer = str(index % 10 + index % 7)
    return {
        "id": str(index),
        "messages": [*prompt, {"role": "assistant", "content": answer}],
        "prompt": prompt,
        "answer": answer,
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"id": str(index), "index": index},
    }


def _spec(
    material: Path,
    run_dir: Path,
    *,
    algorithm: str = "sft",
    device_kind: str = "cpu",
    steps: int = 3,
    resume_from: Path | None = None,
    **training: Any,
) -> LaunchSpec:
    recipe = Recipe.model_validate(
        {
            "name": "it.is-tiny",
            "algorithm": algorithm,
            "model": {"path": str(material / "model")},
            "dataset": {"name": "sums"},
            "training": {"steps": steps, "batch_size": 8, "learning_rate": 1e-3, "max_length": 64, **training},
            "reinforcement": {"samples_per_prompt": 4, "max_response_length": 8} if algorithm in PRESETS else None,
        }
    )
    plan = Plan.model_validate(
        {
            "device_kind": device_kind,
            "devices": 1,
            "micro_batch_size": 4,
            "gradient_checkpointing": True,
            "parameters": 1,
            "memory_bytes": 1,
            "memory_upper_bytes": 1,
            "device_memory_bytes": 1,
            "memory_components": {},
        }
    )
    return launch_spec(
        recipe,
        plan,
        python=sys.executable,
        run_dir=run_dir,
        model_path=material / "model",
        train_file=material / "train.parquet",
        validation_file=material / "train.parquet",
        train_rows=ROWS,
        device_indexes=[0],
        resume_from=resume_from,
    )


def _losses(run_dir: Path) -> dict[int, float]:
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines() if (run_dir / "metrics.jsonl").exists() else []
    parsed = [metrics for metrics in map(parse_metrics_line, lines) if metrics is not None]
    return {step: values["train/loss"] for step, values in parsed if "train/loss" in values}


async def _train(run_dir: Path, spec: LaunchSpec) -> dict[str, Any]:
    await LocalBackend().launch(run_dir, spec)
    status = wait_for(lambda: _ended(run_dir), seconds=600)
    assert status["exit_code"] == 0, (run_dir / "log.txt").read_text()[-4000:]
    return status


def _ended(run_dir: Path) -> dict[str, Any] | None:
    status = json.loads((run_dir / "status.json").read_text())
    return status if status["state"] == "exited" else None


@pytest.mark.parametrize("device_kind", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("algorithm", "config"),
    [
        *((name, "ppo_trainer") for name in PRESETS),
        ("sft", "sft_trainer_engine"),
        ("dpo", "sft_trainer_engine"),
    ],
)
async def test_verl_knows_every_key(material: Path, algorithm: str, config: str, device_kind: str) -> None:
    import verl
    from hydra import compose, initialize_config_dir

    spec = _spec(material, Path("/runs/it's ${odd}"), algorithm=algorithm, device_kind=device_kind)
    overrides = [argument for argument in spec.argv if "=" in argument and not argument.startswith("-")]
    with initialize_config_dir(str(Path(verl.__path__[0]) / "trainer" / "config"), version_base=None):
        composed = compose(config, overrides, return_hydra_config=True)
    assert composed.trainer.default_local_dir == "/runs/it's ${odd}/checkpoints"
    optimizer = composed.actor_rollout_ref.actor.optim if algorithm in PRESETS else composed.optim
    assert optimizer.lr == 1e-3


async def test_a_resumed_run_continues_as_if_never_stopped(material: Path, tmp_path: Path) -> None:
    whole, half, rest = tmp_path / "whole", tmp_path / "half", tmp_path / "rest"
    await _train(whole, _spec(material, whole, steps=5))
    # Three steps are one epoch, where verl alone would skip the next.
    await _train(half, _spec(material, half, steps=3))
    files = checkpoint_files(3, 1, "sft")
    assert all((half / "checkpoints" / name).is_file() for name in files)
    saved = half / "checkpoints" / "global_step_3"
    await _train(rest, _spec(material, rest, steps=5, resume_from=saved))
    assert {**_losses(half), **_losses(rest)} == pytest.approx(_losses(whole))


async def test_the_stop_file_leaves_a_checkpoint_to_resume_from(material: Path, attempt: Attempt) -> None:
    backend, run_dir = LocalBackend(), attempt.directory
    await backend.launch(run_dir, _spec(material, run_dir, steps=100_000))
    wait_for(lambda: _losses(run_dir), seconds=300)
    await backend.request_stop(run_dir)
    status = wait_for(lambda: _ended(run_dir), seconds=60)
    assert (status["exit_code"], status["reason"]) == (0, "stopped")
    step = int((run_dir / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    assert step == max(_losses(run_dir))
    assert all((run_dir / "checkpoints" / name).is_file() for name in checkpoint_files(step, 1, "sft"))


@pytest.mark.slow
async def test_grpo_on_a_cpu_scores_generates_and_stops(material: Path, attempt: Attempt) -> None:
    backend, run_dir = LocalBackend(), attempt.directory
    await backend.launch(run_dir, _spec(material, run_dir, algorithm="grpo", steps=100))
    wait_for(lambda: _first_rewards(run_dir) or _ended(run_dir), seconds=500)
    assert _first_rewards(run_dir), (run_dir / "log.txt").read_text()[-4000:]
    await backend.request_stop(run_dir)
    status = wait_for(lambda: _ended(run_dir), seconds=200)
    assert (status["exit_code"], status["reason"]) == (0, "stopped")
    step = int((run_dir / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    assert all((run_dir / "checkpoints" / name).is_file() for name in checkpoint_files(step, 1, "grpo"))
    assert not (run_dir / "reward_errors.jsonl").exists()
    assert not attempt.survivors()


def _first_rewards(run_dir: Path) -> dict[str, float] | None:
    """The first step's metrics, checked for the agreement of what was sampled with what is trained."""
    content = (run_dir / "metrics.jsonl").read_bytes() if (run_dir / "metrics.jsonl").exists() else b""
    for line in content.splitlines():
        parsed = parse_metrics_line(line)
        if parsed is not None and "critic/rewards/mean" in parsed[1]:
            assert parsed[1]["training/rollout_probs_diff_mean"] < 1e-3
            return parsed[1]
    return None
