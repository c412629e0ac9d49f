"""A grid of recipes and hardware, and verl's own checks of what is planned for them, as fast as Hydra allows.

The configurations are composed once; each plan's overrides are then parsed and applied by the code that Hydra itself uses.
"""

from __future__ import annotations

import ast
import copy
import itertools
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ltp.contracts.recipe import Recipe
from ltp.core.algorithms import family_of
from ltp.core.model_config import Architecture, read_architecture
from ltp.planning.facts import Facts

MODELS = {
    "smollm2-135m": {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192},
    "qwen2.5-0.5b": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768},
    "qwen2.5-1.5b": {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768},
    "qwen2.5-7b": {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768},
    "llama-8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072},
    "qwen3-4b": {"model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 40960},
    "qwen3-30b-a3b": {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}  # fmt: skip
ALGORITHMS = (
    "sft", "grpo", "dpo", "ppo", "gspo", "rloo", "reinforce_plus_plus", "dapo", "dr_grpo", "cispo", "gpg", "opo", "gmpo",
    "sapo", "sft",
)  # fmt: skip
HARDWARE = (
    "cpu:64", "rtx 4090", "rtx 3090:2", "l40s:4", "a100-40gb:4", "a100-80gb:8", "h100:2", "h100:8", "h200", "h200:8",
    "b200:6", "mi300x:3",
)  # fmt: skip


def architecture(model: str) -> Architecture:
    """One of the models."""
    return read_architecture(MODELS[model])


@dataclass(frozen=True)
class Case:
    """A recipe on described hardware."""

    recipe: Recipe
    arch: Architecture
    hardware: str
    flash_attention: bool


def cases() -> Iterator[Case]:
    """Every combination, in an order in which any stretch of it is mixed."""
    choices = list(itertools.product(MODELS, HARDWARE, (0, 16), ((32, 512), (96, 4096)), (False, True), (False, True)))
    for index in range(len(choices)):
        # 7919 is prime and no divisor of the number of choices: a walk through all of them.
        model, hardware, rank, (batch, length), open_count, flash = choices[index * 7919 % len(choices)]
        algorithm = ALGORITHMS[index % len(ALGORITHMS)]
        count = int(hardware.partition(":")[2] or 1) if not hardware.startswith("cpu") else 1
        objective = (None, "throughput", "cost", "fewest-gpus", "headroom")[index // 15 % 5]
        resources = {"devices": 1 if open_count else count, "max_devices": count if open_count else None}
        settings: dict[str, Any] = {
            "name": f"case-{index}", "algorithm": algorithm, "model": {"path": f"/models/{model}"},
            "dataset": {"name": "d"},
            "training": {"steps": 10, "batch_size": batch, "learning_rate": 1e-5, "max_length": length, "lora_rank": rank},
            "resources": {**resources, "objective": objective},
        }  # fmt: skip
        if algorithm not in ("sft", "dpo"):
            settings["reinforcement"] = {"max_response_length": length // 2}
        yield Case(Recipe.model_validate(settings), architecture(model), hardware, flash_attention=flash)


class Verl:
    """The installed verl's configurations and its own validation."""

    def __init__(self) -> None:
        from hydra import compose, initialize_config_module
        from hydra.core.override_parser.overrides_parser import OverridesParser

        with initialize_config_module("verl.trainer.config", version_base=None):
            self._bases = {
                "sft": compose("sft_trainer_engine", return_hydra_config=True),
                "rl": compose("ppo_trainer", return_hydra_config=True),
            }
        self._parser = OverridesParser.create()
        _offer_lora_check()
        self._model = tempfile.TemporaryDirectory()
        _write_model(Path(self._model.name))

    def compose(self, algorithm: str, overrides: Sequence[str]) -> Any:
        """As `compose(config, overrides)`; raises what Hydra raises for a key that verl lacks."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        # DPO runs on verl's SFT trainer.
        config = copy.deepcopy(self._bases["rl" if family_of(algorithm) == "rl" else "sft"])
        ConfigLoaderImpl._apply_overrides_to_config(self._parser.parse_overrides(list(overrides)), config)
        return config

    def validate(self, algorithm: str, config: Any) -> None:
        """verl's validate_config, and the checks its dataclasses make when workers start."""
        from verl.utils.config import omega_conf_to_dataclass, validate_config

        if family_of(algorithm) != "rl":
            omega_conf_to_dataclass(config.engine)
            omega_conf_to_dataclass(config.optim)
            return
        critic = config.algorithm.adv_estimator == "gae"
        if critic:
            # The critic's own checks read a model's directory: the grid's models are configs alone.
            config.critic.model.path = config.critic.model.tokenizer_path = self._model.name
        validate_config(config, use_reference_policy=config.actor_rollout_ref.actor.use_kl_loss, use_critic=critic)
        if config.actor_rollout_ref.rollout.name != "hf_cpu":
            omega_conf_to_dataclass(config.actor_rollout_ref.rollout)


def _write_model(directory: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b", pad_token="b").save_pretrained(directory)
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(directory)


def _offer_lora_check() -> None:
    """validate_config's look at the LoRA rank lies in a module that needs vLLM: give it that one function, as it is there."""
    import verl

    name = "verl.workers.rollout.vllm_rollout.utils"
    source = Path(verl.__file__).parent / "workers/rollout/vllm_rollout/utils.py"
    tree = ast.parse(source.read_text())
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_vllm_max_lora_rank"]
    module = types.ModuleType(name)
    module.__dict__.update(Literal=Literal, get_args=get_args)
    exec(compile(ast.Module(wanted, []), str(source), "exec"), module.__dict__)  # noqa: S102 - verl's own code
    package = types.ModuleType(name.rpartition(".")[0])
    package.__path__ = []
    sys.modules.setdefault(package.__name__, package)
    sys.modules.setdefault(name, module)


def _reward_manager(config: Any) -> str | None:
    manager = config.reward.reward_manager
    if manager.source != "importlib":
        return str(manager.name)
    # Ours: loaded from its file, in which the class must be.
    assert f"class {manager.name}(" in (Path("libs") / manager.module.path).read_text()
    return None


def facts_of_config(algorithm: str, config: Any, arch: Architecture, rows: int, host_devices: int) -> Facts:
    """The composed configuration in the terms of our rules: read back from what verl is given, not from the plan."""
    trainer, data = config.trainer, config.data
    shared: dict[str, Any] = {
        "batch": data.train_batch_size, "rows": rows, "nodes": trainer.nnodes,
        "devices": trainer.nnodes * trainer.n_gpus_per_node, "heads": arch.heads, "kv_heads": arch.kv_heads,
        "max_positions": arch.max_positions, "save_every": trainer.save_freq, "validate_every": trainer.test_freq,
        "host_devices": host_devices,
    }  # fmt: skip
    if family_of(algorithm) != "rl":
        return Facts(
            is_rl=False, max_length=data.max_length, shards=config.engine.fsdp_size, strategy=config.engine.strategy,
            sequence_parallel=config.engine.ulysses_sequence_parallel_size, remove_padding=config.model.use_remove_padding,
            dynamic=data.use_dynamic_bsz, micro_batch=data.micro_batch_size_per_gpu,
            token_budget=data.max_token_len_per_gpu, lora_rank=config.model.lora_rank, **shared,
        )  # fmt: skip
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    model, engine = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.fsdp_config
    return Facts(
        is_rl=True, max_length=data.max_prompt_length + data.max_response_length, shards=engine.fsdp_size,
        strategy=actor.strategy, sequence_parallel=actor.ulysses_sequence_parallel_size,
        remove_padding=model.use_remove_padding, dynamic=actor.use_dynamic_bsz,
        log_prob_dynamic=rollout.log_prob_use_dynamic_bsz, micro_batch=actor.ppo_micro_batch_size_per_gpu,
        log_prob_micro_batch=rollout.log_prob_micro_batch_size_per_gpu, legacy_micro_batch=actor.ppo_micro_batch_size,
        token_budget=actor.ppo_max_token_len_per_gpu, log_prob_token_budget=rollout.log_prob_max_token_len_per_gpu,
        lora_rank=model.lora_rank, samples=rollout.n, mini_batch=actor.ppo_mini_batch_size,
        prompt_length=data.max_prompt_length, response_length=data.max_response_length, rollout=rollout.name,
        rollout_mode=rollout.mode, rollout_tensor_parallel=rollout.tensor_model_parallel_size,
        rollout_data_parallel=rollout.data_parallel_size, rollout_pipeline_parallel=rollout.pipeline_model_parallel_size,
        rollout_expert_parallel=rollout.expert_parallel_size, rollout_max_length=rollout.max_model_len,
        rollout_load_format=rollout.load_format, temperature=rollout.temperature,
        validation_samples=rollout.val_kwargs.do_sample, estimator=config.algorithm.adv_estimator,
        loss_mode=actor.policy_loss.loss_mode, reward_manager=_reward_manager(config),
        trainer_mode=trainer.v1.trainer_mode, parameter_sync_step=trainer.v1.get("parameter_sync_step", 1),
        filter_groups=config.algorithm.filter_groups.enable, filter_metric=config.algorithm.filter_groups.metric,
        has_critic=config.algorithm.adv_estimator == "gae",
        critic_token_budget=config.critic.ppo_infer_max_token_len_per_gpu if config.algorithm.adv_estimator == "gae" else None,
        slots=config.ray_kwargs.ray_init.num_cpus, **shared,
    )  # fmt: skip
