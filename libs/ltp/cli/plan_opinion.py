"""What `ltp plan explain` adds to the first plan: the replay of its allocations, and on request a trace of the model's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import LtpError
from ltp.core.memory import Precision, Step
from ltp.core.replay.step import Replay, replay
from ltp.model_files import read_config
from ltp.planning.second_opinion import opinion


def opinions(recipe: Recipe, plan: dict[str, Any], *, trace: bool) -> dict[str, dict[str, Any]]:
    """Who says what: the replay of the plan; with `trace`, a bf16 step of the same size by the model's code and the replay."""
    arch, made = read_config(Path(recipe.model.path)), Plan.model_validate(plan)
    exact = opinion(recipe, arch, made)
    found = {
        "replay": _sizes(exact) if exact else {"reason": "the replay does not cover packed, spread or offloaded steps"}
    }
    if not trace:
        return found
    from ltp.cli.plan_check import read_settings, run_trace

    rank = recipe.training.lora_rank
    step = Step(Precision.BF16, made.micro_batch_size, recipe.training.max_length, made.gradient_checkpointing, rank)
    asked = {
        "micro_batch": step.micro_batch, "sequence": step.sequence, "checkpointing": step.checkpointing, "lora_rank": rank,
    }  # fmt: skip
    path = Path(recipe.model.path)
    try:
        seen = run_trace({"config": read_settings(path / "config.json" if path.is_dir() else path), "step": asked})
        found["trace, bf16"] = {"allocated_bytes": seen["allocated"], "reserved_bytes": seen["reserved"]}
    except LtpError as error:
        found["trace, bf16"] = {"reason": error.message}
    found["replay, bf16"] = _sizes(replay(arch, step))
    return found


def _sizes(exact: Replay) -> dict[str, Any]:
    return {"allocated_bytes": exact.allocated, "reserved_bytes": exact.reserved}
