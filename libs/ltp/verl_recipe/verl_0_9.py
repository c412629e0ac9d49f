"""verl 0.9 as a table: keys, entry points, environment, checkpoint layout, metric lines; the next verl is one more."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from ltp.verl_recipe.hydra import Setting, overrides
from ltp.verl_recipe.settings import Inputs, grpo_settings, sft_reading, sft_settings

# Setting -> key of `sft_trainer_engine.yaml`; a leading + adds a key its schema lacks.
SFT_KEYS = {
    "model_path": "model.path",
    "attention": "+model.override_config.attn_implementation",
    "remove_padding": "model.use_remove_padding",
    "gradient_checkpointing": "model.enable_gradient_checkpointing",
    "lora_rank": "model.lora_rank",
    "lora_alpha": "model.lora_alpha",
    "train_file": "data.train_files",
    "validation_file": "data.val_files",
    "batch_size": "data.train_batch_size",
    "micro_batch_size": "data.micro_batch_size_per_gpu",
    "dynamic_batches": "data.use_dynamic_bsz",
    "token_budget": "data.max_token_len_per_gpu",
    "max_length": "data.max_length",
    "truncation": "data.truncation",
    "dataset_module": "data.custom_cls.path",
    "dataset_class": "data.custom_cls.name",
    "loader_processes": "data.num_workers",
    "learning_rate": "optim.lr",
    "warmup_ratio": "optim.lr_warmup_steps_ratio",
    "lr_schedule": "optim.lr_scheduler_type",
    "weight_decay": "optim.weight_decay",
    "max_grad_norm": "optim.clip_grad",
    "optimizer_options": "optim.override_optimizer_config",
    "engine_seed": "engine.seed",
    "data_seed": "trainer.seed",
    "strategy": "engine.strategy",
    "shards": "engine.fsdp_size",
    "sequence_parallel": "engine.ulysses_sequence_parallel_size",
    "optimizer_offload": "engine.optimizer_offload",
    "offload_policy": "engine.offload_policy",
    "fused_head": "model.use_fused_kernels",
    "fused_head_by": "model.fused_kernel_options.impl_backend",
    "mixed_precision": "+engine.mixed_precision",
    "compile": "engine.use_torch_compile",
    "device": "trainer.device",
    "devices": "trainer.n_gpus_per_node",
    "hosts": "trainer.nnodes",
    "steps": "trainer.total_training_steps",
    "epochs": "trainer.total_epochs",
    "save_every": "trainer.save_freq",
    "validate_every": "trainer.test_freq",
    "checkpoints": "trainer.default_local_dir",
    "resume_mode": "trainer.resume_mode",
    "resume_from": "trainer.resume_from_path",
    "loggers": "trainer.logger",
    "project": "trainer.project_name",
    "experiment": "trainer.experiment_name",
    "hydra_dir": "hydra.run.dir",
}

_ACTOR = "actor_rollout_ref.actor"
_MODEL = "actor_rollout_ref.model"
_ROLLOUT = "actor_rollout_ref.rollout"

# Setting -> key of `ppo_trainer.yaml`, which shares the data files and the trainer's own section with SFT.
GRPO_KEYS = {
    **{name: key for name, key in SFT_KEYS.items() if key.startswith(("trainer.", "data.", "hydra."))},
    **{name: key.replace("model.", f"{_MODEL}.", 1) for name, key in SFT_KEYS.items() if "model." in key},
    **{name: f"{_ACTOR}.{key}" for name, key in SFT_KEYS.items() if key.startswith("optim.")},
    "estimator": "algorithm.adv_estimator",
    "prompt_length": "data.max_prompt_length",
    "response_length": "data.max_response_length",
    "drop_long_prompts": "data.filter_overlong_prompts",
    "loader_processes": "data.dataloader_num_workers",
    "data_seed": "data.seed",
    "strategy": f"{_ACTOR}.strategy",
    "engine_seed": f"{_ACTOR}.fsdp_config.seed",
    "mixed_precision": f"+{_ACTOR}.fsdp_config.mixed_precision",
    "compile": f"{_ACTOR}.fsdp_config.use_torch_compile",
    "shards": f"{_ACTOR}.fsdp_config.fsdp_size",
    # Set here and not at the engine, where the reference model would not see it.
    "sequence_parallel": f"{_ACTOR}.ulysses_sequence_parallel_size",
    "optimizer_offload": f"{_ACTOR}.fsdp_config.optimizer_offload",
    "offload_policy": f"{_ACTOR}.fsdp_config.offload_policy",
    "actor_dynamic_batches": f"{_ACTOR}.use_dynamic_bsz",
    "log_prob_dynamic_batches": f"{_ROLLOUT}.log_prob_use_dynamic_bsz",
    "token_budget": f"{_ACTOR}.ppo_max_token_len_per_gpu",
    "log_prob_token_budget": f"{_ROLLOUT}.log_prob_max_token_len_per_gpu",
    "actor_compile": f"{_ACTOR}.use_torch_compile",
    "mini_batch_size": f"{_ACTOR}.ppo_mini_batch_size",
    "micro_batch_size": f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
    "log_prob_micro_batch_size": f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu",
    "rollout": f"{_ROLLOUT}.name",
    "samples_per_prompt": f"{_ROLLOUT}.n",
    "temperature": f"{_ROLLOUT}.temperature",
    "rollout_tensor_parallel": f"{_ROLLOUT}.tensor_model_parallel_size",
    "rollout_max_length": f"{_ROLLOUT}.max_model_len",
    "rollout_seed": f"{_ROLLOUT}.seed",
    "rollout_dtype": f"{_ROLLOUT}.dtype",
    "rollout_load_format": f"{_ROLLOUT}.load_format",
    "rollout_frees_cache": f"{_ROLLOUT}.free_cache_engine",
    "rollout_eager": f"{_ROLLOUT}.enforce_eager",
    "rollout_sequences": f"{_ROLLOUT}.max_num_seqs",
    "rollout_memory_share": f"{_ROLLOUT}.gpu_memory_utilization",
    "rollout_workers": f"{_ROLLOUT}.agent.num_workers",
    # The older top-level custom_reward_function.* is accepted and ignored by this version.
    "reward_file": "reward.custom_reward_function.path",
    "reward_function": "reward.custom_reward_function.name",
    "scorer": "+reward.custom_reward_function.reward_kwargs.scorer",
    "reward_workers": "reward.num_workers",
    "validate_first": "trainer.val_before_train",
    "ray_cpus": "ray_kwargs.ray_init.num_cpus",
    "ray_gpus": "+ray_kwargs.ray_init.num_gpus",
    "ray_dashboard": "+ray_kwargs.ray_init.include_dashboard",
    "ray_object_store_bytes": "+ray_kwargs.ray_init.object_store_memory",
    "storage_units": "transfer_queue.backend.SimpleStorage.num_data_storage_units",
}


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
        reward_file=libs / "ltp_verl" / "reward.py",
    )  # fmt: skip
    command = [*_entry(python, recipe, plan), *_overrides(inputs)]
    return LaunchSpec(
        argv=tuple(command),
        env=_environment(recipe, plan, run_dir, libs, device_indexes),
        cwd=str(run_dir),
        metrics_path=str(run_dir / "metrics.jsonl"),
        stop_file=str(run_dir / "stop"),
        time_limit_seconds=recipe.resources.time_limit_seconds,
    )


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
        reward_file=Path("ltp_verl/reward.py"),
    )  # fmt: skip
    return _overrides(inputs)


def _overrides(inputs: Inputs) -> list[str]:
    if inputs.recipe.algorithm == "sft":
        found = overrides(SFT_KEYS, sft_settings(inputs))
    else:
        settings = grpo_settings(inputs)
        # verl builds the validation set of RL even when it is never used.
        settings["validation_file"] = inputs.validation_file or inputs.train_file
        found = overrides(GRPO_KEYS, settings)
    return [*found, "hydra.output_subdir=null"]


def _entry(python: str, recipe: Recipe, plan: Plan) -> Sequence[str]:
    return _sft_entry(python, plan) if recipe.algorithm == "sft" else (python, "-m", "ltp_verl.rl")


def _sft_entry(python: str, plan: Plan) -> Sequence[str]:
    if plan.device_kind == "cpu" and plan.devices == 1:
        return (python, "-m", "ltp_verl.sft")
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.devices}")
    return (python, *torchrun, "-m", "ltp_verl.sft")


def _environment(recipe: Recipe, plan: Plan, run_dir: Path, libs: Path, device_indexes: list[int]) -> dict[str, str]:
    environment = {
        "PYTHONPATH": str(libs),
        "PYTHONUNBUFFERED": "1",
        "HYDRA_FULL_ERROR": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VERL_FILE_LOGGER_PATH": str(run_dir / "metrics.jsonl"),
        "VERL_USE_EXTERNAL_MODULES": "ltp_verl.label_logprobs",
    }
    if plan.device_kind == "cpu":
        environment["VERL_USE_EXTERNAL_MODULES"] += ",ltp_verl.cpu"
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // plan.devices))
        # Threads that spin while they wait take the processors from whoever they wait for: on a busy 2-core host
        # 12 steps of a tiny model took 33 and 43 s spinning, 9 and 8 s sleeping.
        environment["OMP_WAIT_POLICY"] = "passive"
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, device_indexes))
    if recipe.algorithm == "grpo":
        environment |= {
            # A Ray of its own: a cluster that happens to run on the host must not take part.
            "RAY_ADDRESS": "local",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "LTP_REWARD_ERRORS": str(run_dir / "reward_errors.jsonl"),
        }
        if plan.device_kind == "gpu":
            environment |= {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
    return environment


def _libs() -> Path:
    found = importlib.util.find_spec("ltp_verl")
    if found is None or found.origin is None:
        message = "The package ltp_verl, which runs inside the training process, is not installed."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Reinstall ltp.")
    return Path(found.origin).parent.parent


def checkpoint_files(step: int, world_size: int, algorithm: Literal["sft", "grpo"]) -> list[str]:
    """The files of a complete checkpoint, relative to the run's `checkpoints` directory."""
    top = f"global_step_{step}"
    model = top if algorithm == "sft" else f"{top}/actor"
    shards = [
        f"{model}/{part}_world_size_{world_size}_rank_{rank}.pt"
        for part in ("model", "optim", "extra_state")
        for rank in range(world_size)
    ]
    data = [f"{top}/data_{rank}.pt" for rank in range(world_size)] if algorithm == "sft" else [f"{top}/data.pt"]
    return [*shards, *data, f"{model}/fsdp_config.json", f"{model}/huggingface/config.json"]


def parse_metrics_line(line: bytes) -> tuple[int, dict[str, float]] | None:
    """Step and values of one line of verl's file logger; None for what is not one, as a half-written last line."""
    try:
        record: Any = json.loads(line)
        step, data = int(record["step"]), record["data"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return step, {str(key): float(value) for key, value in data if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
