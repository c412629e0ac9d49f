"""verl 0.9 as a table: keys, entry points, environment, checkpoint layout, metric lines; the next verl is one more."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.algorithms import family_of
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from ltp.verl_recipe.hydra import Setting, overrides
from ltp.verl_recipe.settings import Inputs, dpo_settings, sft_reading, sft_settings
from ltp.verl_recipe.settings_rl import reward_of, rl_settings
from ltp.verl_recipe.verl_0_9_keys import DPO_KEYS, RL_KEYS, SFT_KEYS

_SETTINGS_FILES = ("fsdp_config.json", "huggingface/config.json")


def launch_spec(
    recipe: Recipe,
    plan: Plan,
    *,
    python: str,
    run_dir: Path,
    model_path: Path,
    train_file: Path,
    validation_file: Path | None,
    train_rows: int,
    device_indexes: list[int],
    resume_from: Path | None = None,
) -> LaunchSpec:
    """The process that trains `recipe` as `plan` says.

    Pass `validation_file` only if it has at least `batch_size` rows: verl drops the last partial batch, and the loss
    over none is NaN. Raises LtpError where verl would fail late or train on something else.
    """
    run_dir = run_dir.absolute()
    libs = _libs()
    inputs = Inputs(
        recipe, plan, run_dir, model_path, train_file, validation_file, train_rows, resume_from,
        reward_file=libs / "ltp_verl" / "reward_manager.py",
    )  # fmt: skip
    command = [*_entry(python, recipe, plan), *_overrides(inputs)]
    return LaunchSpec(
        argv=tuple(command),
        env=_environment(recipe, plan, run_dir, libs, device_indexes),
        cwd=str(run_dir),
        metrics_path=str(run_dir / "metrics.jsonl"),
        stop_file=str(run_dir / "stop"),
        time_limit_seconds=recipe.resources.time_limit_seconds,
        hang_seconds=recipe.resources.stall_limit_seconds,
        checkpoint_bytes=checkpoint_bytes(recipe, plan),
        kept_bytes=checkpoint_bytes(recipe, plan) * _checkpoints_kept(recipe),
    )


def checkpoint_bytes(recipe: Recipe, plan: Plan) -> int:
    """What one checkpoint takes on a host's disk: fp32 weights and, of what is trained, both of Adam's moments.

    Source: verl 0.9.1's layout, measured on an H200 as 12 bytes a parameter. Adapters train few of them.
    """
    trained = 4 if recipe.training.lora_rank else 12
    critic = 12 if recipe.algorithm == "ppo" else 0
    return plan.parameters * (trained + critic) // max(1, recipe.resources.hosts)


def _checkpoints_kept(recipe: Recipe) -> int:
    """How many checkpoints lie on the disk at most."""
    every, steps = recipe.training.save_every, recipe.training.steps
    written = 1 if every is None else -(-steps // every)
    kept = recipe.checkpoints
    if kept is None or kept.keep_last is None:
        return written
    # One more is written before another goes.
    return min(written, kept.keep_last + (kept.keep_best or 0) + 1)


def sft_data_config(max_length: int, truncation: str) -> dict[str, Setting]:
    """What a job of SFT sets in the trainer's `data` section that decides about tokens and masks, by dotted key."""
    settings = sft_reading(max_length, truncation)
    return {SFT_KEYS[name].removeprefix("data."): value for name, value in settings.items()}


def planned_overrides(recipe: Recipe, plan: Plan, *, train_rows: int | None = None) -> list[str]:
    """The overrides that a run of this plan would be given, with placeholders for the paths of an attempt.

    Raises LtpError as `launch_spec` does.
    """
    rows = max(recipe.training.batch_size, train_rows or 0)
    inputs = Inputs(
        recipe, plan, Path("RUN_DIR"), Path(recipe.model.path), Path("TRAIN.parquet"), None, rows, None,
        reward_file=Path("ltp_verl/reward_manager.py"),
    )  # fmt: skip
    return _overrides(inputs)


def _overrides(inputs: Inputs) -> list[str]:
    family = family_of(inputs.recipe.algorithm)
    if family == "rl":
        settings = rl_settings(inputs)
        # verl builds the validation set of RL even when it is never used.
        settings["validation_file"] = inputs.validation_file or inputs.train_file
        found = overrides(RL_KEYS, settings)
    elif family == "dpo":
        found = overrides(DPO_KEYS, dpo_settings(inputs))
    else:
        found = overrides(SFT_KEYS, sft_settings(inputs))
    # The user's own come last: Hydra takes the last of a key.
    return [*found, "hydra.output_subdir=null", *inputs.recipe.overrides]


def _entry(python: str, recipe: Recipe, plan: Plan) -> Sequence[str]:
    family = family_of(recipe.algorithm)
    return (python, "-m", "ltp_verl.rl") if family == "rl" else _torch_entry(python, plan, f"ltp_verl.{family}")


def _torch_entry(python: str, plan: Plan, module: str) -> Sequence[str]:
    if plan.device_kind == "cpu" and plan.devices == 1:
        return (python, "-m", module)
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.devices}")
    return (python, *torchrun, "-m", module)


def _environment(recipe: Recipe, plan: Plan, run_dir: Path, libs: Path, device_indexes: list[int]) -> dict[str, str]:
    environment = {
        "PYTHONPATH": str(libs),
        "PYTHONUNBUFFERED": "1",
        "HYDRA_FULL_ERROR": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VERL_FILE_LOGGER_PATH": str(run_dir / "metrics.jsonl"),
        "VERL_USE_EXTERNAL_MODULES": "ltp_verl.stacks,ltp_verl.label_logprobs",
    }
    if plan.device_kind == "cpu":
        environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.cpu"
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // plan.devices))
        # Threads that spin while they wait take the processors from whoever they wait for: on a busy 2-core host
        # 12 steps of a tiny model took 33 and 43 s spinning, 9 and 8 s sleeping.
        environment["OMP_WAIT_POLICY"] = "passive"
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, device_indexes))
    if recipe.tracking:
        environment |= tracking_environment(run_dir)
        environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.sinks"
    if recipe.algorithm == "ppo":
        environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.value_head"
    if family_of(recipe.algorithm) == "rl":
        environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.rl_data"
        environment |= {
            # A Ray of its own: a cluster that happens to run on the host must not take part.
            "RAY_ADDRESS": "local",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "LTP_REWARD": json.dumps(reward_of(recipe)),
            # What foreign code that judges responses must not see.
            "LTP_HIDDEN": str(run_dir.parents[2] if run_dir.parent.parent.name == "runs" else run_dir),
            "LTP_REWARD_ERRORS": str(run_dir / "reward_errors.jsonl"),
        }
        if plan.device_kind == "gpu":
            environment |= {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
            environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.whole_answers"
    # Last: it imports verl's engine, which takes what the others exchange at its import.
    environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.reshard"
    return environment


def tracking_environment(run_dir: Path) -> dict[str, str]:
    """Where verl's trackers write: beside the attempts, so that those of a run are one curve. None of them calls anybody."""
    place = run_dir.parent / "tracking"
    return {
        "TENSORBOARD_DIR": str(place / "tensorboard"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(place),
        "WANDB_SILENT": "true",
        "WANDB_RUN_ID": run_dir.parent.name,
    }


def _libs() -> Path:
    found = importlib.util.find_spec("ltp_verl")
    if found is None or found.origin is None:
        message = "The package ltp_verl, which runs inside the training process, is not installed."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Reinstall ltp.")
    return Path(found.origin).parent.parent


def checkpoint_files(step: int, world_size: int, algorithm: str) -> list[str]:
    """The files of a complete checkpoint, relative to the run's `checkpoints` directory."""
    top, rl = f"global_step_{step}", family_of(algorithm) == "rl"
    models = [top] if not rl else [f"{top}/actor", f"{top}/critic"] if algorithm == "ppo" else [f"{top}/actor"]
    shards = [
        f"{model}/{part}_world_size_{world_size}_rank_{rank}.pt"
        for model in models
        for part in ("model", "optim", "extra_state")
        for rank in range(world_size)
    ]
    data = [f"{top}/data.pt"] if rl else [f"{top}/data_{rank}.pt" for rank in range(world_size)]
    return [*shards, *data, *(f"{model}/{name}" for model in models for name in _SETTINGS_FILES)]


def parse_metrics_line(line: bytes) -> tuple[int, dict[str, float]] | None:
    """Step and values of one line of verl's file logger; None for what is not one, as a half-written last line."""
    try:
        record: Any = json.loads(line)
        step, data = int(record["step"]), record["data"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    numbers = ((str(key), _number(value)) for key, value in data)
    return step, {key: value for key, value in numbers if value is not None}


def _number(value: object) -> float | None:
    """A metric's value: verl's file logger writes null for NaN and for infinity; None for what is no number."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
