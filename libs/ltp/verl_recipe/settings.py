"""A recipe and its plan as settings with our names, which the table of a verl version turns into keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe.hydra import Setting


@dataclass(frozen=True)
class Inputs:
    """Everything the settings of one attempt depend on."""

    recipe: Recipe
    plan: Plan
    run_dir: Path
    model_path: Path
    train_file: Path
    validation_file: Path | None
    train_rows: int
    resume_from: Path | None
    reward_file: Path


def sft_settings(inputs: Inputs) -> dict[str, Setting]:
    """Supervised fine-tuning. Rows longer than `max_length` lose their end: better than a crash hours in."""
    _check_batches(inputs, sequences=inputs.recipe.training.batch_size)
    training, plan = inputs.recipe.training, inputs.plan
    return {
        **_shared(inputs),
        **sft_reading(training.max_length),
        # Off unless the plan packs, so that its micro batch, and with it its memory, is what really runs.
        "dynamic_batches": plan.token_budget is not None,
        **({} if plan.token_budget is None else {"token_budget": plan.token_budget}),
        "save_every": training.save_every or -1,
    }


def sft_reading(max_length: int, truncation: str = "right") -> dict[str, Setting]:
    """How rows become tokens: what decides about the loss mask, and so what is asked when a mask is shown."""
    return {
        "max_length": max_length,
        "truncation": truncation,
        "dataset_module": "pkg://ltp_verl.sft_dataset",
        "dataset_class": "ToolSFTDataset",
    }


def grpo_settings(inputs: Inputs) -> dict[str, Setting]:
    """Group relative policy optimization, without a reference model: the recipe asks for no KL term."""
    training, reinforcement, plan = inputs.recipe.training, inputs.recipe.reinforcement, inputs.plan
    if reinforcement is None:
        raise LtpError(ErrorCode.INVALID_RECIPE, "GRPO needs a section 'reinforcement'.", "Add it; it may be empty.")
    if plan.device_kind == "cpu" and (training.lora_rank or plan.devices > 1):
        message = "GRPO on a CPU trains all weights in one process."
        raise LtpError(ErrorCode.ALGORITHM_UNSUPPORTED, message, "Set lora_rank: 0 and devices: 1, or use a GPU.")
    prompt_length = training.max_length - reinforcement.max_response_length
    if prompt_length < 1:
        message = f"max_length {training.max_length} leaves no room for a prompt before the response."
        raise LtpError(ErrorCode.INVALID_RECIPE, message, "Raise max_length or lower max_response_length.")
    _check_batches(inputs, sequences=training.batch_size * reinforcement.samples_per_prompt)
    return {
        **_shared(inputs),
        **_rollout(inputs),
        "estimator": "grpo",
        "prompt_length": prompt_length,
        "response_length": reinforcement.max_response_length,
        "drop_long_prompts": True,
        "mini_batch_size": training.batch_size,
        "log_prob_micro_batch_size": plan.micro_batch_size,
        **_actor_batches(plan),
        "samples_per_prompt": reinforcement.samples_per_prompt,
        "temperature": reinforcement.temperature,
        "reward_file": inputs.reward_file,
        "reward_function": "compute_score",
        "scorer": reinforcement.scorer,
        "validate_first": inputs.validation_file is not None,
        # verl saves the last step of RL only if saving is on at all.
        "save_every": training.save_every or training.steps,
    }


def _shared(inputs: Inputs) -> dict[str, Setting]:
    training, plan = inputs.recipe.training, inputs.plan
    validated = inputs.validation_file is not None
    return {
        "model_path": inputs.model_path,
        # Packed sequences need attention that knows where one ends; verl spreads sequences over devices only so.
        "attention": "sdpa" if plan.token_budget is None else "flash_attention_2",
        "remove_padding": plan.token_budget is not None,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "lora_rank": training.lora_rank,
        "lora_alpha": 2 * training.lora_rank,
        "train_file": inputs.train_file,
        "validation_file": inputs.validation_file,
        "batch_size": training.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "loader_processes": 0 if plan.device_kind == "cpu" else 2,
        "learning_rate": training.learning_rate,
        "warmup_ratio": training.warmup_ratio,
        "lr_schedule": training.lr_schedule,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        # One kernel a weight, where the list-wise AdamW reads and writes each weight twice as often.
        **({"optimizer_options": {"fused": True}} if plan.device_kind == "gpu" and plan.offload == "none" else {}),
        "engine_seed": training.seed,
        "data_seed": training.seed,
        "device": "cpu" if plan.device_kind == "cpu" else "cuda",
        # The plan's memory and time are this engine's; FSDP 1, verl's default, refuses parameters on the CPU.
        "strategy": plan.strategy,
        "devices": plan.devices,
        "hosts": 1,
        "steps": training.steps,
        "epochs": _epochs(inputs),
        "validate_every": (training.validate_every or training.save_every or training.steps) if validated else -1,
        "checkpoints": inputs.run_dir / "checkpoints",
        "resume_mode": "disable" if inputs.resume_from is None else "resume_path",
        "resume_from": inputs.resume_from,
        "loggers": ["console", "file"],
        "project": "ltp",
        "experiment": inputs.recipe.name,
        "hydra_dir": inputs.run_dir / "hydra",
        **_spread(plan),
        **(_CPU_ENGINE if plan.device_kind == "cpu" else {}),
    }


def _spread(plan: Plan) -> dict[str, Setting]:
    """How the plan spreads the job and saves memory, where that is not verl's default."""
    settings: dict[str, Setting] = {}
    if plan.shards is not None and plan.shards != plan.devices:
        settings["shards"] = plan.shards
    if plan.sequence_parallel > 1:
        settings["sequence_parallel"] = plan.sequence_parallel
    if plan.offload == "optimizer":
        settings["optimizer_offload"] = True
    if plan.offload == "all":
        settings["offload_policy"] = True
    if plan.fused_head:
        # Of verl's two fused heads the one that is right for every vocabulary (verl.md §2.1).
        settings |= {"fused_head": True, "fused_head_by": "torch"}
    return settings


def _actor_batches(plan: Plan) -> dict[str, Setting]:
    if plan.token_budget is None:
        return {}
    return {
        "actor_dynamic_batches": True,
        "log_prob_dynamic_batches": True,
        "token_budget": plan.token_budget,
        "log_prob_token_budget": plan.token_budget,
    }


# verl computes in bf16 unless told otherwise.
_CPU_ENGINE: dict[str, Setting] = {
    "mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
    "compile": False,
}


# verl's default of 256 makes more responses wait their turn; the planner counts with as many (planning/candidates.py).
_ROLLOUT_SEQUENCES = 512


def _rollout(inputs: Inputs) -> dict[str, Setting]:
    devices = inputs.plan.devices
    shared: dict[str, Setting] = {
        "rollout_tensor_parallel": inputs.plan.rollout_tensor_parallel,
        "rollout_max_length": inputs.recipe.training.max_length,
        "rollout_seed": inputs.recipe.training.seed,
        "ray_dashboard": False,
        # Ray's CPUs are slots, not cores. verl takes three per device and one per helper actor, and hangs
        # without a word when they run out.
        "ray_cpus": max(os.cpu_count() or 1, 16 + 3 * devices),
        "storage_units": 1,
    }
    if inputs.plan.device_kind == "cpu":
        return {
            **shared, "rollout": "hf_cpu", "rollout_dtype": "float32", "rollout_load_format": "auto",
            "rollout_frees_cache": False, "rollout_workers": 1, "reward_workers": 1, "ray_gpus": 1,
            "ray_object_store_bytes": 500_000_000, "actor_compile": False,
        }  # fmt: skip
    return {
        **shared, "rollout": "vllm", "rollout_eager": not inputs.plan.cuda_graphs, "rollout_workers": 2, "reward_workers": 2,
        "rollout_memory_share": _rollout_memory_share(inputs.plan),
        "rollout_sequences": _ROLLOUT_SEQUENCES,
        # vLLM needs the base weights on its own when only adapters are synchronised.
        "rollout_load_format": "safetensors" if inputs.recipe.training.lora_rank else "dummy",
    }  # fmt: skip


def _rollout_memory_share(plan: Plan) -> float:
    """The share of a device that vLLM may take: the plan's, or what an older plan has beside the trainer's states.

    verl's own default is half of the device, whatever is needed: on an H200 73 GiB where the plan said 19. vLLM's
    process has a context of its own, which its share does not count.
    """
    if plan.rollout_memory_share is not None:
        return plan.rollout_memory_share
    held = sum(plan.memory_components.get(name, 0) for name in ("parameters", "optimizer", "context", "context"))
    return min(0.5, round((plan.memory_upper_bytes - held) / plan.device_memory_bytes, 4))


def _epochs(inputs: Inputs) -> int:
    per_epoch = inputs.train_rows // inputs.recipe.training.batch_size
    if per_epoch == 0:
        message = f"{inputs.train_rows} rows do not fill one batch of {inputs.recipe.training.batch_size}."
        raise LtpError(ErrorCode.DATASET_TOO_SMALL, message, "Lower batch_size or add rows.")
    return -(-inputs.recipe.training.steps // per_epoch)


def _check_batches(inputs: Inputs, *, sequences: int) -> None:
    replicas, micro = inputs.plan.devices // inputs.plan.sequence_parallel, inputs.plan.micro_batch_size
    each = 1 if inputs.plan.token_budget is not None else micro
    if sequences % (replicas * each):
        message = f"{sequences} sequences a step do not divide over {replicas} devices in micro batches of {micro}."
        raise LtpError(ErrorCode.INVALID_RECIPE, message, "Choose a batch_size that is a multiple of both together.")
