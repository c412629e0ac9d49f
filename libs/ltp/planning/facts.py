"""A configuration in the terms of verl's rules, and how a recipe and a layout become one."""

from __future__ import annotations

from dataclasses import dataclass

from ltp.contracts.recipe import Recipe
from ltp.core.algorithms import PRESETS, Preset
from ltp.core.model_config import Architecture
from ltp.planning.candidates import Layout
from ltp.planning.pools import Pool


@dataclass(frozen=True)
class Facts:
    """A configuration in the terms of the rules. `devices` are all GPUs of the job; batches count as verl counts them."""

    is_rl: bool
    batch: int  # data.train_batch_size: sequences (SFT) or prompts (RL)
    rows: int
    max_length: int
    nodes: int = 1
    devices: int = 1
    shards: int = -1  # fsdp_size; -1 is all
    sequence_parallel: int = 1
    reference_sequence_parallel: int | None = None
    remove_padding: bool = False
    strategy: str = "fsdp2"
    # Batches
    dynamic: bool = False
    log_prob_dynamic: bool = False
    micro_batch: int | None = None
    log_prob_micro_batch: int | None = None
    legacy_micro_batch: int | None = None
    token_budget: int | None = None
    log_prob_token_budget: int | None = None
    critic_token_budget: int | None = None
    validation_rows: int | None = None
    # The model
    heads: int = 1
    kv_heads: int = 1
    max_positions: int = 1 << 30
    experts: int = 0
    lora_rank: int = 0
    # RL alone
    samples: int = 1
    mini_batch: int = 0
    prompt_length: int = 0
    response_length: int = 0
    rollout: str | None = None
    rollout_mode: str = "async"
    rollout_tensor_parallel: int = 1
    rollout_data_parallel: int = 1
    rollout_pipeline_parallel: int = 1
    rollout_expert_parallel: int = 1
    rollout_max_length: int | None = None
    rollout_load_format: str = "auto"
    temperature: float = 1.0
    validation_samples: bool = False
    uses_reference: bool = False
    has_critic: bool = False
    estimator: str = "grpo"
    loss_mode: str = "vanilla"
    # None: a class loaded from its file, which verl does not look up by name.
    reward_manager: str | None = None
    trainer_mode: str = "sync"
    parameter_sync_step: int = 1
    filter_groups: bool = False
    filter_metric: str | None = None
    # The host as Ray will see it; None is not known.
    slots: int | None = None
    host_devices: int | None = None
    # The trainer
    save_every: int = -1
    validate_every: int = -1
    resume_path: str | None = None
    use_mbridge: bool = True
    verl: str = "0.9"
    agent_workers: int = 8

    @property
    def data_parallel(self) -> int:
        """Replicas that read different data."""
        return max(1, self.devices // self.sequence_parallel)

    @property
    def sequences(self) -> int:
        """Sequences of one step: verl multiplies prompts by samples."""
        return self.batch * self.samples

    @property
    def mini_sequences(self) -> int:
        """Sequences of one update."""
        return self.mini_batch * self.samples


def facts_of(recipe: Recipe, arch: Architecture, pool: Pool, layout: Layout, rows: int | None) -> Facts:
    """What verl will be told. `rows` of None is not known: the rules about the dataset then hold."""
    training, section = recipe.training, recipe.reinforcement
    dynamic = layout.token_budget is not None
    preset = PRESETS.get(recipe.algorithm, Preset())
    with_critic = recipe.algorithm == "ppo"
    return Facts(
        is_rl=section is not None,
        batch=training.batch_size,
        rows=training.batch_size if rows is None else rows,
        max_length=training.max_length,
        devices=pool.devices,
        shards=layout.shards,
        sequence_parallel=layout.sequence_parallel,
        remove_padding=dynamic,
        dynamic=dynamic,
        log_prob_dynamic=dynamic,
        micro_batch=layout.micro_batch,
        log_prob_micro_batch=layout.micro_batch,
        token_budget=layout.token_budget,
        log_prob_token_budget=layout.token_budget,
        heads=arch.heads,
        kv_heads=arch.kv_heads,
        max_positions=arch.max_positions,
        lora_rank=training.lora_rank,
        samples=section.samples_per_prompt if section else 1,
        mini_batch=(section.mini_batch_size or training.batch_size) if section else 0,
        has_critic=with_critic,
        critic_token_budget=(layout.token_budget or layout.micro_batch * training.max_length) if with_critic else None,
        uses_reference=section is not None and bool(section.kl_loss_coefficient or section.kl_reward_coefficient),
        estimator=(section.estimator if section else None) or preset.estimator,
        loss_mode=(section.policy_loss if section else None) or preset.policy_loss,
        prompt_length=training.max_length - section.max_response_length if section else 0,
        response_length=section.max_response_length if section else 0,
        rollout=None if section is None else "vllm" if pool.kind == "gpu" else "hf_cpu",
        rollout_tensor_parallel=max(1, layout.rollout_tensor_parallel),
        rollout_max_length=training.max_length if section else None,
        rollout_load_format="safetensors" if training.lora_rank else "dummy",
        temperature=section.temperature if section else 1.0,
        save_every=training.save_every or -1,
        validate_every=training.validate_every or -1,
        # The runner gives Ray slots enough whatever the host's cores (verl_recipe), and never more devices than leased.
        host_devices=pool.devices,
    )
