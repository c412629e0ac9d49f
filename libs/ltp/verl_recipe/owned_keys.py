"""Keys of verl 0.9's configuration that a recipe's `overrides` may not set, each with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

from ltp.core.algorithms import family_of
from ltp.verl_recipe.verl_0_9_keys import DPO_KEYS, RL_KEYS, SFT_KEYS

# Setting -> the recipe's own key for it.
_RECIPE_KEYS: Mapping[str, str] = {
    "model_path": "model.path", "train_file": "dataset", "validation_file": "evaluation.split",
    "batch_size": "training.batch_size", "learning_rate": "training.learning_rate", "max_length": "training.max_length",
    "warmup_ratio": "training.warmup_ratio", "lr_schedule": "training.lr_schedule",
    "weight_decay": "training.weight_decay", "max_grad_norm": "training.max_grad_norm", "engine_seed": "training.seed",
    "data_seed": "training.seed", "rollout_seed": "training.seed", "steps": "training.steps",
    "epochs": "training.steps", "save_every": "training.save_every", "validate_every": "training.validate_every",
    "lora_rank": "training.lora_rank", "devices": "resources.devices", "hosts": "resources.hosts",
    "device": "resources.device_kind", "micro_batch_size": "resources.micro_batch_size", "experiment": "name",
    "preference_beta": "preference.beta", "preference_loss": "preference.loss",
    "label_smoothing": "preference.label_smoothing", "estimator": "reinforcement.estimator",
    "policy_loss": "reinforcement.policy_loss", "loss_aggregation": "reinforcement.loss_aggregation",
    "clip_low": "reinforcement.clip_low", "clip_high": "reinforcement.clip_high", "clip_c": "reinforcement.clip_c",
    "normalise_advantage": "reinforcement.normalise_advantage", "gamma": "reinforcement.gamma",
    "lam": "reinforcement.lam", "entropy_coefficient": "reinforcement.entropy_coefficient",
    "kl_in_loss": "reinforcement.kl_loss_coefficient", "kl_loss_coefficient": "reinforcement.kl_loss_coefficient",
    "kl_in_reward": "reinforcement.kl_reward_coefficient",
    "kl_reward_coefficient": "reinforcement.kl_reward_coefficient",
    "dynamic_sampling": "reinforcement.dynamic_sampling", "dynamic_sampling_by": "reinforcement.dynamic_sampling",
    "samples_per_prompt": "reinforcement.samples_per_prompt", "temperature": "reinforcement.temperature",
    "response_length": "reinforcement.max_response_length", "prompt_length": "training.max_length",
    "mini_batch_size": "reinforcement.mini_batch_size", "update_epochs": "reinforcement.epochs",
    "reward_source": "reinforcement.reward", "reward_file": "reinforcement.reward",
    "reward_class": "reinforcement.reward", "critic_model_path": "critic.model",
    "critic_learning_rate": "critic.learning_rate", "critic_warmup": "critic.warmup_steps",
}  # fmt: skip
# What the platform only proposes: the user's word counts, at the user's risk of another memory than was planned.
_PROPOSED = frozenset(
    [
        "gradient_checkpointing", "loader_processes", "optimizer_options", "lora_alpha", "rollout_eager",
        "rollout_sequences", "rollout_memory_share", "loss_scale", "drop_long_prompts", "truncation", "compile",
        "actor_compile", "reward_workers", "rollout_workers", "validate_first", "critic_max_grad_norm",
        "critic_weight_decay", "critic_gradient_checkpointing",
    ]
)  # fmt: skip
# Accepted by verl 0.9 and read nowhere, or not where one would think (verl.md §1.4, §2.1, §5): a silent no-op each.
_DEAD: Mapping[str, str] = {
    "custom_reward_function": "verl 0.9 ignores it; use reinforcement.reward",
    "reward_model": "verl 0.9 ignores it; use reinforcement.reward",
    "sandbox_fusion": "verl 0.9 ignores it; use reinforcement.reward",
    "actor_rollout_ref.nccl_timeout": "nothing in verl 0.9 reads it",
    "critic.ulysses_sequence_parallel_size": "verl 0.9 ignores it; the plan sets critic.fsdp.ulysses_sequence_parallel_size",
    "critic.use_dynamic_bsz": "verl 0.9's critic is always dynamic",
    "critic.ppo_max_token_len_per_gpu": "verl 0.9 ignores it; use +critic.ppo_infer_max_token_len_per_gpu",
    "actor_rollout_ref.ref.fsdp_config.param_offload": "verl 0.9 always offloads the reference",
    "actor_rollout_ref.ref.fsdp_config.optimizer_offload": "a reference has no optimizer",
    "algorithm.filter_groups.max_num_gen_batches": "verl 0.9 ignores it; use algorithm.filter_groups.max_inflight_gen_batches",
    "trainer.esi_redundant_time": "only verl's old trainer reads it",
    "data.balance_dp_token": "verl 0.9 does not implement it",
}
# Any key with such a part makes verl load code or files that nobody looked at, or takes paths out of the platform's hands.
_FOREIGN = frozenset(
    [
        "_target_", "external_lib", "trust_remote_code", "custom_cls", "custom_sampler", "custom_async_server",
        "custom_backend_module", "agent_loop_config_path", "agent_loop_manager_class", "checkpoint_callback_class",
        "function_tool_path", "tool_config_path", "runtime_env", "default_hdfs_dir", "custom_reward_function",
        "reward_manager", "hf_config_path", "quantization_config_path", "router_config_path", "finish_hook_cmd",
    ]
)  # fmt: skip
_PLATFORM = {
    "hydra": "Hydra itself is the platform's to set up",
    "ray_kwargs": "Ray is the platform's to start",
    "transfer_queue": "verl's data plane is sized by the platform",
    "trainer.v1.trainer_mode": "stopping and resuming are built on the synchronous trainer",
    "trainer.use_v1": "stopping and resuming are built on the default trainer",
    "model_engine": "the engine is the planner's choice",
    "reward": "use reinforcement.reward",
    "global_profiler": "profiling writes where the platform does not look",
    "profiler": "profiling writes where the platform does not look",
}


def reason_against(key: str, algorithm: str) -> str | None:
    """Why `key` (without + or ~) may not be overridden in a recipe of this algorithm; None when it may."""
    tables = {"sft": SFT_KEYS, "dpo": DPO_KEYS, "rl": RL_KEYS}
    names = {path.lstrip("+"): name for name, path in tables[family_of(algorithm)].items()}
    for known, name in names.items():
        if known.startswith(f"{key}."):
            return "it is a section of which the platform sets a part; set its other keys one by one"
        if key == known or key.startswith(f"{known}."):
            if name in _PROPOSED and key == known:
                return None
            own = _RECIPE_KEYS.get(name)
            return f"the recipe sets it: use {own}" if own else "the platform sets it from the plan"
    for part in key.split("."):
        if part in _FOREIGN:
            return f"{part} makes verl load or run what the platform has not checked"
    for table in (_DEAD, _PLATFORM):
        for prefix, reason in table.items():
            if key == prefix or key.startswith(f"{prefix}."):
                return reason
    return None
