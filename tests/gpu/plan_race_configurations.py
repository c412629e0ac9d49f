"""Writes the races of issue 5's bar: for each of three recipes the planner's first plan and five hand-made configurations.

    python -m tests.gpu.plan_race_configurations DIR

DIR gets the models' config.json and `NAME.race.json` for `plan_race.py`. The hand-made ones are what verl's own defaults,
quick starts and example scripts run, with the batch of the recipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.core.model_config import read_architecture
from ltp.planning.choice import choose
from ltp.planning.pools import described_host
from ltp.recipe_text import check_recipe
from ltp.verl_recipe.settings_rl import reward_of
from ltp.verl_recipe.verl_0_9 import planned_overrides

_QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _model(hidden: int, wide: int, layers: int, heads: int, kv: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        **_QWEN, "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "vocab_size": vocab,
        "num_attention_heads": heads, "num_key_value_heads": kv, "tie_word_embeddings": tied,
    }  # fmt: skip


MODELS = {
    "q05": _model(896, 4864, 24, 14, 2, 151936, True),
    "q15": _model(1536, 8960, 28, 12, 2, 151936, True),
    "q7": _model(3584, 18944, 28, 28, 4, 152064, False),
}
_SFT = {"steps": 6, "batch_size": 64, "learning_rate": 1e-5, "max_length": 1024}
_GROUP = {"samples_per_prompt": 8, "max_response_length": 256, "scorer": "numeric"}
RECIPES: dict[str, dict[str, Any]] = {
    "sft05": {"algorithm": "sft", "model": "q05", "training": _SFT},
    "lora7": {"algorithm": "sft", "model": "q7", "training": {**_SFT, "batch_size": 32, "lora_rank": 16}},
    "grpo15": {
        "algorithm": "grpo", "model": "q15", "reinforcement": _GROUP,
        "training": {"steps": 8, "batch_size": 32, "learning_rate": 1e-6, "max_length": 512},
    },
}  # fmt: skip


def _sft(strategy: str, micro: int, checkpointing: bool) -> dict[str, object]:
    return {
        "engine.strategy": strategy, "data.micro_batch_size_per_gpu": micro,
        "model.enable_gradient_checkpointing": str(checkpointing).lower(),
    }  # fmt: skip


def _grpo(strategy: str, micro: int, scored: int, checkpointing: bool, share: float, eager: bool) -> dict[str, object]:
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return {
        f"{actor}.strategy": strategy, f"{actor}.ppo_micro_batch_size_per_gpu": micro,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": scored, f"{rollout}.gpu_memory_utilization": share,
        f"{rollout}.enforce_eager": str(eager).lower(), f"{rollout}.max_num_seqs": 256,
        "actor_rollout_ref.model.enable_gradient_checkpointing": str(checkpointing).lower(),
    }  # fmt: skip


# What the platform sets and a person leaves as verl has it.
_LEFT: dict[str, Mapping[str, object]] = {
    "sft": {"optim.override_optimizer_config": "null", "engine.reshard_after_forward": "true", "data.num_workers": 8},
    "grpo": {
        "actor_rollout_ref.actor.optim.override_optimizer_config": "null",
        "actor_rollout_ref.rollout.agent.num_workers": 8, "reward.num_workers": 8,
    },
}  # fmt: skip
HAND_MADE: dict[str, dict[str, Mapping[str, object]]] = {
    "sft05": {
        "verl defaults (FSDP 1, micro 4, checkpointing)": _sft("fsdp", 4, True),
        "FSDP 1, micro 16": _sft("fsdp", 16, False),
        "FSDP 1, micro 32": _sft("fsdp", 32, False),
        "FSDP 2, micro 8": _sft("fsdp2", 8, False),
        "FSDP 2, micro 64, checkpointing": _sft("fsdp2", 64, True),
    },
    "lora7": {
        "verl defaults (FSDP 1, micro 4, checkpointing)": _sft("fsdp", 4, True),
        "FSDP 1, micro 8": _sft("fsdp", 8, False),
        "FSDP 2, micro 4": _sft("fsdp2", 4, False),
        "FSDP 2, micro 2, checkpointing": _sft("fsdp2", 2, True),
        "FSDP 2, micro 16, checkpointing": _sft("fsdp2", 16, True),
    },
    "grpo15": {
        "FSDP 1, micro 8, checkpointing, half for vLLM, graphs": _grpo("fsdp", 8, 16, True, 0.5, False),
        "FSDP 2, micro 16, 0.4 for vLLM, graphs": _grpo("fsdp2", 16, 32, False, 0.4, False),
        "FSDP 1, micro 16, checkpointing, 0.6 for vLLM, graphs": _grpo("fsdp", 16, 32, True, 0.6, False),
        "FSDP 2, micro 32, checkpointing, half for vLLM, eager": _grpo("fsdp2", 32, 64, True, 0.5, True),
        "FSDP 2, micro 4, 0.4 for vLLM, eager": _grpo("fsdp2", 4, 8, False, 0.4, True),
    },
}


def race(name: str, directory: Path, more: Mapping[str, Mapping[str, object]]) -> list[dict[str, Any]]:
    """The plan's configuration, the hand-made ones, and what `more` changes in the plan's."""
    described = RECIPES[name]
    recipe = check_recipe(
        {
            **described,
            "name": name,
            "dataset": {"name": "rows"},
            "model": {"path": str(directory / described["model"])},
        },
        name,
    )
    plan = choose(recipe, read_architecture(MODELS[described["model"]]), [described_host("h200:1")], rows=1024)
    ours = [
        text.replace(f"'{directory / described['model']}'", "'MODEL'")
        for text in planned_overrides(recipe, plan, train_rows=1024)
    ]
    # No checkpoint: what is raced is the step.
    ours = edited(ours, {"trainer.save_freq": -1})
    predicted = {"seconds": plan.step_seconds, "bytes": plan.memory_bytes, "components": plan.memory_components}
    entries = [{"name": "plan", "ours": True, "overrides": ours, "predicted": predicted}]
    left = _LEFT[described["algorithm"]]
    entries += [
        {"name": key, "ours": False, "overrides": edited(ours, {**left, **change})}
        for key, change in HAND_MADE[name].items()
    ]
    entries += [{"name": key, "ours": None, "overrides": edited(ours, change)} for key, change in more.items()]
    shared = {
        "recipe": name,
        "algorithm": described["algorithm"],
        "model": described["model"],
        "env": _environment(recipe),
    }
    return [{**shared, **entry} for entry in entries]


def _environment(recipe: Recipe) -> dict[str, str]:
    shared = {
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "HYDRA_FULL_ERROR": "1",
        "VERL_USE_EXTERNAL_MODULES": "ltp_verl.label_logprobs",
    }  # fmt: skip
    if recipe.reinforcement is None:
        return shared
    return {
        **shared, "VERL_USE_EXTERNAL_MODULES": "ltp_verl.label_logprobs,ltp_verl.rl_data,ltp_verl.whole_answers", "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0",
        "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1", "LTP_REWARD": json.dumps(reward_of(recipe)),
    }  # fmt: skip


def edited(overrides: Sequence[str], changes: Mapping[str, object]) -> list[str]:
    """The overrides with some keys set otherwise; a key that is not there yet comes at the end."""
    left = dict(changes)
    found = [f"{key}={left.pop(key)}" if key in left else text for text in overrides for key in [text.split("=", 1)[0]]]
    return found + [f"{key}={value}" for key, value in left.items()]


# The plan once more, to see how far one configuration differs from itself, and what might be planned next.
_MORE: dict[str, dict[str, Mapping[str, object]]] = {
    "sft05": {"plan again": {}},
    "lora7": {"plan again": {}},
    "grpo15": {"plan again": {}},
}


def main(directory: Path) -> None:
    """Write models and races."""
    for name, config in MODELS.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / name / "config.json").write_text(json.dumps(config))
    for name in RECIPES:
        (directory / f"{name}.race.json").write_text(json.dumps(race(name, directory, _MORE.get(name, {})), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
