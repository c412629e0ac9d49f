"""A recipe and its plan as settings with our names, which the table of a verl version turns into keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltp.contracts.recipe import Recipe
from ltp.contracts.recipe_learning import Preference
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
    check_batches(inputs, sequences=inputs.recipe.training.batch_size)
    training, plan = inputs.recipe.training, inputs.plan
    return {
        **shared_settings(inputs),
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


def dpo_settings(inputs: Inputs) -> dict[str, Setting]:
    """Direct preference optimization: a batch counts pairs, and a pair is never split over micro batches."""
    preference = inputs.recipe.preference or Preference()
    return {
        **sft_settings(inputs),
        "dataset_module": "pkg://ltp_verl.pairs",
        "dataset_class": "PairDataset",
        "preference_beta": preference.beta,
        "preference_loss": preference.loss,
        "label_smoothing": preference.label_smoothing,
    }


def shared_settings(inputs: Inputs) -> dict[str, Setting]:
    """What every algorithm is told about model, data, optimizer, devices and checkpoints."""
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
        "loggers": ["console", "file", *inputs.recipe.tracking],
        "project": "ltp",
        "experiment": inputs.recipe.name,
        "hydra_dir": inputs.run_dir / "hydra",
        **_spread(plan),
        **(CPU_ENGINE if plan.device_kind == "cpu" else {}),
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
    if not plan.reshards:
        settings["reshards"] = False
    if plan.fused_head:
        # Of verl's two fused heads the one that is right for every vocabulary (verl.md §2.1).
        settings |= {"fused_head": True, "fused_head_by": "torch"}
    return settings


# verl computes in bf16 unless told otherwise.
CPU_ENGINE: dict[str, Setting] = {
    "mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
    "compile": False,
}


def _epochs(inputs: Inputs) -> int:
    per_epoch = inputs.train_rows // inputs.recipe.training.batch_size
    if per_epoch == 0:
        message = f"{inputs.train_rows} rows do not fill one batch of {inputs.recipe.training.batch_size}."
        raise LtpError(ErrorCode.DATASET_TOO_SMALL, message, "Lower batch_size or add rows.")
    return -(-inputs.recipe.training.steps // per_epoch)


def check_batches(inputs: Inputs, *, sequences: int) -> None:
    """Raise INVALID_RECIPE for sequences that verl could not share out evenly; it says so late or drops some."""
    replicas, micro = inputs.plan.devices // inputs.plan.sequence_parallel, inputs.plan.micro_batch_size
    each = 1 if inputs.plan.token_budget is not None else micro
    if sequences % (replicas * each):
        message = f"{sequences} sequences a step do not divide over {replicas} devices in micro batches of {micro}."
        raise LtpError(ErrorCode.INVALID_RECIPE, message, "Choose a batch_size that is a multiple of both together.")
