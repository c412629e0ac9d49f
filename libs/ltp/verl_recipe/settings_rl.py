"""The settings of every algorithm that generates responses and learns from their rewards."""

from __future__ import annotations

import os
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.contracts.recipe_learning import Critic, Reinforcement
from ltp.contracts.values import Plan
from ltp.core.algorithms import PRESETS, Preset
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.serving import helpers_of
from ltp.verl_recipe.hydra import Setting
from ltp.verl_recipe.settings import CPU_ENGINE, Inputs, check_batches, shared_settings

# verl's default of 256 makes more responses wait their turn; the planner counts with as many (planning/candidates.py).
_ROLLOUT_SEQUENCES = 512


def rl_settings(inputs: Inputs) -> dict[str, Setting]:
    """Everything of one algorithm of reinforcement learning; reference and critic only where it has them."""
    training, section, plan = inputs.recipe.training, _section(inputs.recipe), inputs.plan
    if plan.device_kind == "cpu" and plan.devices > 1:
        message = "Reinforcement learning on a CPU runs in one process."
        raise LtpError(ErrorCode.ALGORITHM_UNSUPPORTED, message, "Set devices: 1, or use a GPU.")
    prompt_length = training.max_length - section.max_response_length
    if prompt_length < 1:
        message = f"max_length {training.max_length} leaves no room for a prompt before the response."
        raise LtpError(ErrorCode.INVALID_RECIPE, message, "Raise max_length or lower max_response_length.")
    mini_batch = section.mini_batch_size or training.batch_size
    check_batches(inputs, sequences=mini_batch * section.samples_per_prompt)
    return {
        **shared_settings(inputs),
        **_rollout(inputs),
        **_learning(section, PRESETS[inputs.recipe.algorithm]),
        **_reference(section, plan),
        **_critic(inputs),
        "prompt_length": prompt_length,
        "response_length": section.max_response_length,
        "drop_long_prompts": True,
        "mini_batch_size": mini_batch,
        "update_epochs": section.epochs,
        "log_prob_micro_batch_size": plan.micro_batch_size,
        **_actor_batches(plan),
        "samples_per_prompt": section.samples_per_prompt,
        "temperature": section.temperature,
        "reward_source": "importlib",
        "reward_file": inputs.reward_file,
        "reward_class": "PlatformRewards",
        "validate_first": inputs.validation_file is not None,
        # Where `ltp_verl.samples` keeps a few responses of each step, as a file beside the folder that is named here.
        "rollout_samples": inputs.run_dir / "rollouts",
        "validation_samples": inputs.run_dir / "validation",
        # verl saves the last step of RL only if saving is on at all.
        "save_every": training.save_every or training.steps,
    }


def reward_of(recipe: Recipe) -> dict[str, Any]:
    """What `ltp_verl.reward_manager` is told: the recipe's reward, and what length costs."""
    section = _section(recipe)
    spelt = {"kind": "verifier", "verifier": section.scorer}
    reward = spelt if section.reward is None else section.reward.model_dump(mode="json")
    overlong = {"buffer": section.overlong_buffer, "penalty": section.overlong_penalty}
    return {
        **reward,
        "max_response_length": section.max_response_length,
        **({"overlong": overlong} if section.overlong_buffer else {}),
    }


def _section(recipe: Recipe) -> Reinforcement:
    if recipe.reinforcement is None:
        message = f"{recipe.algorithm} needs a section 'reinforcement'."
        raise LtpError(ErrorCode.INVALID_RECIPE, message, "Add it; it may be empty.")
    return recipe.reinforcement


def _learning(section: Reinforcement, preset: Preset) -> dict[str, Setting]:
    """The algorithm as the recipe has it, else as its authors have it, else as verl has it."""
    normalise, draw = section.normalise_advantage, section.dynamic_sampling
    aggregation = section.loss_aggregation or preset.loss_aggregation
    settings: dict[str, Setting] = {
        "estimator": section.estimator or preset.estimator,
        "policy_loss": section.policy_loss or preset.policy_loss,
        "loss_aggregation": aggregation,
        "normalise_advantage": preset.normalise_advantage if normalise is None else normalise,
        "gamma": section.gamma,
        "lam": section.lam,
        "entropy_coefficient": section.entropy_coefficient,
        "kl_in_loss": section.kl_loss_coefficient > 0,
        "kl_in_reward": section.kl_reward_coefficient > 0,
    }
    for name in ("clip_low", "clip_high", "clip_c"):
        value = getattr(section, name) or getattr(preset, name)
        if value is not None:
            settings[name] = value
    if aggregation == "seq-mean-token-sum-norm":
        # A constant: verl's own is the longest response of a micro batch, which makes the loss depend on its neighbours.
        settings["loss_scale"] = section.max_response_length
    if preset.dynamic_sampling if draw is None else draw:
        settings |= {"dynamic_sampling": True, "dynamic_sampling_by": "acc"}
    if section.kl_loss_coefficient:
        settings["kl_loss_coefficient"] = section.kl_loss_coefficient
    if section.kl_reward_coefficient:
        settings["kl_reward_coefficient"] = section.kl_reward_coefficient
    return settings


def _reference(section: Reinforcement, plan: Plan) -> dict[str, Setting]:
    if not (section.kl_loss_coefficient or section.kl_reward_coefficient):
        return {}
    settings: dict[str, Setting] = {"reference_micro_batch_size": plan.micro_batch_size}
    if plan.device_kind == "cpu":
        settings |= {"reference_mixed_precision": CPU_ENGINE["mixed_precision"], "reference_compile": False}
    return settings


def _critic(inputs: Inputs) -> dict[str, Setting]:
    """The value model, trained whole; verl takes nothing for it from the actor but the sizes of batches."""
    recipe, plan = inputs.recipe, inputs.plan
    if recipe.algorithm != "ppo":
        return {}
    critic, shared = recipe.critic or Critic(), shared_settings(inputs)
    copied = ("attention", "remove_padding", "gradient_checkpointing", "strategy", "weight_decay", "max_grad_norm")
    spread = ("optimizer_offload", "offload_policy", "shards", "sequence_parallel", "mixed_precision", "compile")
    each = plan.token_budget or plan.micro_batch_size * recipe.training.max_length
    return {
        **{f"critic_{name}": shared[name] for name in (*copied, *spread) if name in shared},
        "critic_model_path": inputs.model_path if critic.model is None else critic.model,
        "critic_learning_rate": critic.learning_rate,
        "critic_micro_batch_size": plan.micro_batch_size,
        "critic_token_budget": each,
        "critic_seed": recipe.training.seed,
        "critic_warmup": critic.warmup_steps,
    }


def _actor_batches(plan: Plan) -> dict[str, Setting]:
    if plan.token_budget is None:
        return {}
    return {
        "actor_dynamic_batches": True,
        "log_prob_dynamic_batches": True,
        "token_budget": plan.token_budget,
        "log_prob_token_budget": plan.token_budget,
    }


def _rollout(inputs: Inputs) -> dict[str, Setting]:
    devices = inputs.plan.devices
    shared: dict[str, Setting] = {
        "rollout_tensor_parallel": inputs.plan.rollout_tensor_parallel,
        "rollout_max_length": inputs.recipe.training.max_length,
        "rollout_seed": inputs.recipe.training.seed,
        "rollout_manager": "ltp_verl.generation.GroupManager",
        "ray_dashboard": False,
        # Ray's CPUs are slots, not cores. verl takes three per device and one per helper actor, and hangs
        # without a word when they run out.
        "ray_cpus": max(os.cpu_count() or 1, 16 + 3 * devices),
    }
    if inputs.plan.device_kind == "cpu":
        return {
            **shared, "rollout": "hf_cpu", "rollout_dtype": "float32", "rollout_load_format": "auto",
            "rollout_frees_cache": False, "rollout_workers": 1, "reward_workers": 1, "ray_gpus": 1, "storage_units": 1,
            "ray_object_store_bytes": 500_000_000, "actor_compile": False,
            **({"rollout_merges_adapters": True} if inputs.recipe.training.lora_rank else {}),
        }  # fmt: skip
    responses = inputs.recipe.training.batch_size * _section(inputs.recipe).samples_per_prompt
    helpers = helpers_of(responses)
    return {
        **shared, "rollout": "vllm", "rollout_eager": not inputs.plan.cuda_graphs,
        "rollout_workers": helpers, "storage_units": helpers,
        # What our own workers judge themselves needs no other process (ltp_verl.generation).
        "reward_workers": 1 if reward_of(inputs.recipe)["kind"] == "verifier" else helpers,
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
