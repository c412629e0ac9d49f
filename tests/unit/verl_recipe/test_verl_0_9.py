"""A recipe and its plan become the right process for verl 0.9, or an error a person can act on."""

from __future__ import annotations

import json
import re
from math import nan
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.algorithms import Algorithm
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from ltp.verl_recipe.verl_0_9 import checkpoint_files, launch_spec, parse_metrics_line


def _recipe(algorithm: str = "sft", **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "sums",
            "algorithm": algorithm,
            "model": {"path": "/models/tiny"},
            "dataset": {"name": "sums"},
            "training": {"steps": 10, "batch_size": 8, "learning_rate": 1e-4, **training},
            "reinforcement": None if algorithm in {"sft", "dpo"} else {"samples_per_prompt": 4},
            "resources": {"time_limit_seconds": 60},
        }
    )


def _plan(device_kind: str = "cpu", devices: int = 1, micro: int = 4) -> Plan:
    return Plan.model_validate(
        {
            "device_kind": device_kind,
            "devices": devices,
            "micro_batch_size": micro,
            "gradient_checkpointing": False,
            "parameters": 1,
            "memory_bytes": 1,
            "memory_upper_bytes": 1,
            "device_memory_bytes": 1,
            "memory_components": {},
        }
    )


def _spec(recipe: Recipe, plan: Plan, **changes: Any) -> LaunchSpec:
    arguments: dict[str, Any] = {
        "python": "/venv/bin/python",
        "run_dir": Path("/runs/1"),
        "model_path": Path("/models/tiny"),
        "train_file": Path("/data/train.parquet"),
        "validation_file": None,
        "train_rows": 24,
        "device_indexes": [0],
    }
    return launch_spec(recipe, plan, **{**arguments, **changes})


def test_sft_on_a_cpu_is_one_process_without_torchrun() -> None:
    spec = _spec(_recipe(), _plan())
    assert spec.argv[:3] == ("/venv/bin/python", "-m", "ltp_verl.sft")
    assert {
        "optim.lr=0.0001",
        "engine.strategy='fsdp2'",
        "+engine.mixed_precision={param_dtype:'fp32',reduce_dtype:'fp32',buffer_dtype:'fp32'}",
        "trainer.device='cpu'",
        "trainer.total_training_steps=10",
        "trainer.total_epochs=4",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        "trainer.resume_mode='disable'",
        "trainer.default_local_dir='/runs/1/checkpoints'",
        "trainer.logger=['console','file']",
        "data.micro_batch_size_per_gpu=4",
        "data.truncation='right'",
        "data.val_files=null",
    } <= set(spec.argv)
    assert (
        spec.env["VERL_USE_EXTERNAL_MODULES"] == "ltp_verl.stacks,ltp_verl.label_logprobs,ltp_verl.cpu,ltp_verl.reshard"
    )
    assert spec.env["OMP_WAIT_POLICY"] == "passive"
    assert spec.env["VERL_FILE_LOGGER_PATH"] == spec.metrics_path == "/runs/1/metrics.jsonl"
    assert (Path(spec.env["PYTHONPATH"]) / "ltp_verl" / "sft.py").is_file()
    assert spec.time_limit_seconds == 60


def test_sft_on_gpus_is_torchrun_on_the_leased_devices() -> None:
    spec = _spec(_recipe(), _plan("gpu", devices=2), device_indexes=[2, 5])
    assert spec.argv[1:6] == ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    assert spec.env["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert spec.env["VERL_USE_EXTERNAL_MODULES"] == "ltp_verl.stacks,ltp_verl.label_logprobs,ltp_verl.reshard"
    assert not any(argument.startswith("+engine.mixed_precision") for argument in spec.argv)


@pytest.mark.parametrize("device_kind", ["cpu", "gpu"])
def test_the_engine_is_the_one_the_planner_reckons_with(device_kind: str) -> None:
    assert "engine.strategy='fsdp2'" in _spec(_recipe(), _plan(device_kind)).argv
    assert "actor_rollout_ref.actor.strategy='fsdp2'" in _spec(_recipe("grpo"), _plan(device_kind)).argv


def test_grpo_generates_with_transformers_on_a_cpu_and_with_vllm_on_a_gpu() -> None:
    cpu = _spec(_recipe("grpo"), _plan())
    gpu = _spec(_recipe("grpo"), _plan("gpu"))
    assert "actor_rollout_ref.rollout.name='hf_cpu'" in cpu.argv
    assert "actor_rollout_ref.rollout.name='vllm'" in gpu.argv
    assert json.loads(cpu.env["LTP_REWARD"]) == {"kind": "verifier", "verifier": "exact", "max_response_length": 128}
    assert "reward.reward_manager.name='PlatformRewards'" in cpu.argv
    assert {"trainer.save_freq=10", "data.val_files='/data/train.parquet'"} <= set(gpu.argv)
    assert "trainer.val_before_train=false" in gpu.argv
    assert gpu.env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert "ltp_verl.whole_answers" in gpu.env["VERL_USE_EXTERNAL_MODULES"].split(",")
    assert "whole_answers" not in cpu.env["VERL_USE_EXTERNAL_MODULES"]


@pytest.mark.parametrize(("batch", "helpers"), [(8, 2), (32, 4), (512, 8)])
def test_many_responses_get_many_helpers_and_verifiers_no_process_of_their_own(batch: int, helpers: int) -> None:
    spec = _spec(_recipe("grpo", batch_size=batch), _plan("gpu"), train_rows=512)
    assert {
        f"actor_rollout_ref.rollout.agent.num_workers={helpers}",
        f"transfer_queue.backend.SimpleStorage.num_data_storage_units={helpers}",
        "reward.num_workers=1",
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class='ltp_verl.generation.GroupManager'",
    } <= set(spec.argv)
    assert "ltp_verl.rl_data" in spec.env["VERL_USE_EXTERNAL_MODULES"].split(",")


def test_vllm_takes_no_more_of_a_gpu_than_the_plan_says() -> None:
    sizes = {"memory_upper_bytes": 20, "device_memory_bytes": 80}
    components = {"parameters": 1, "optimizer": 2, "activations": 9, "context": 1}
    plan = _plan("gpu").model_copy(update={**sizes, "memory_components": components})
    assert "actor_rollout_ref.rollout.gpu_memory_utilization=0.1875" in _spec(_recipe("grpo"), plan).argv
    full = plan.model_copy(update={"memory_upper_bytes": 78})
    assert "actor_rollout_ref.rollout.gpu_memory_utilization=0.5" in _spec(_recipe("grpo"), full).argv


def test_a_resumed_run_names_its_checkpoint() -> None:
    spec = _spec(_recipe(), _plan(), resume_from=Path("/runs/0/checkpoints/global_step_4"))
    assert "trainer.resume_mode='resume_path'" in spec.argv
    assert "trainer.resume_from_path='/runs/0/checkpoints/global_step_4'" in spec.argv


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@pytest.mark.parametrize("device_kind", ["cpu", "gpu"])
def test_no_key_is_given_twice(algorithm: str, device_kind: str) -> None:
    spec = _spec(_recipe(algorithm), _plan(device_kind), validation_file=Path("/data/validation.parquet"))
    keys = [argument.partition("=")[0] for argument in spec.argv if "=" in argument and not argument.startswith("--")]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("recipe", "plan", "rows", "code"),
    [
        (_recipe(), _plan(), 7, ErrorCode.DATASET_TOO_SMALL),
        (_recipe(), _plan(micro=3), 24, ErrorCode.INVALID_RECIPE),
        (_recipe(batch_size=9), _plan("gpu", devices=2, micro=1), 24, ErrorCode.INVALID_RECIPE),
        (_recipe("grpo", max_length=128), _plan(), 24, ErrorCode.INVALID_RECIPE),
        (_recipe("grpo"), _plan(devices=2), 24, ErrorCode.ALGORITHM_UNSUPPORTED),
    ],
)
def test_what_verl_would_fail_on_late_is_refused(recipe: Recipe, plan: Plan, rows: int, code: ErrorCode) -> None:
    with pytest.raises(LtpError) as caught:
        _spec(recipe, plan, train_rows=rows)
    assert caught.value.code is code


def test_files_of_a_complete_checkpoint() -> None:
    assert "global_step_3/optim_world_size_2_rank_1.pt" in checkpoint_files(3, 2, "sft")
    assert "global_step_3/data_1.pt" in checkpoint_files(3, 2, "sft")
    assert {"global_step_3/actor/model_world_size_1_rank_0.pt", "global_step_3/data.pt"} <= set(
        checkpoint_files(3, 1, "grpo")
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"step":2,"data":{"train/loss":1.5,"train/n":3}}', (2, {"train/loss": 1.5, "train/n": 3.0})),
        (b'{"step":2,"data":{"val/loss":null,"note":"x","flag":true,"bad":NaN}}', (2, {"val/loss": nan, "bad": nan})),
        (b'{"step":2,"data":{"tra', None),
        (b'{"data":{}}', None),
        (b"[]", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_metric_lines(line: bytes, expected: object) -> None:
    assert repr(parse_metrics_line(line)) == repr(expected)


@pytest.mark.parametrize(
    ("algorithm", "keys"),
    [
        ("gspo", {"policy_loss.loss_mode='gspo'", "loss_agg_mode='seq-mean-token-mean'", "clip_ratio_low=0.0003"}),
        ("dapo", {"clip_ratio_high=0.28", "loss_agg_mode='token-mean'", "algorithm.filter_groups.enable=true"}),
        ("dr_grpo", {"algorithm.norm_adv_by_std_in_grpo=false", "loss_agg_mode='seq-mean-token-sum-norm'"}),
        ("rloo", {"algorithm.adv_estimator='rloo'"}),
        ("reinforce_plus_plus", {"algorithm.adv_estimator='reinforce_plus_plus'"}),
        ("cispo", {"policy_loss.loss_mode='cispo'"}),
        ("gpg", {"algorithm.adv_estimator='gpg'", "policy_loss.loss_mode='gpg'"}),
        ("ppo", {"algorithm.adv_estimator='gae'", "critic.model.path='/models/tiny'", "critic.strategy='fsdp2'"}),
    ],
)
def test_an_algorithm_is_what_its_authors_made_of_it(algorithm: str, keys: set[str]) -> None:
    argv = _spec(_recipe(algorithm), _plan()).argv
    assert all(any(argument.endswith(key) for argument in argv) for key in keys), argv


def test_the_recipe_has_the_last_word_over_the_authors() -> None:
    settings = _recipe("dapo").settings()
    settings["reinforcement"] |= {"clip_high": 0.5, "dynamic_sampling": False, "kl_loss_coefficient": 0.01}
    argv = _spec(Recipe.model_validate(settings), _plan()).argv
    assert "actor_rollout_ref.actor.clip_ratio_high=0.5" in argv
    assert "actor_rollout_ref.actor.use_kl_loss=true" in argv
    assert "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4" in argv
    assert not any("filter_groups" in argument for argument in argv)


def test_dpo_reads_its_preferences() -> None:
    argv = _spec(_recipe("dpo"), _plan()).argv
    assert argv[:3] == ("/venv/bin/python", "-m", "ltp_verl.dpo")
    assert {"+dpo.beta=0.1", "+dpo.loss='sigmoid'", "+dpo.label_smoothing=0.0"} <= set(argv)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "gspo", "reinforcement": {"samples_per_prompt": 1}}, "compares the responses"),
        ({"algorithm": "grpo", "reinforcement": {"estimator": "remax"}}, "cannot feed the estimator remax"),
        ({"algorithm": "grpo", "reinforcement": {"policy_loss": "gsp"}}, "did you mean 'gspo'?"),
        ({"algorithm": "grpo", "reinforcement": {"mini_batch_size": 3}}, "no multiple of"),
        ({"algorithm": "grpo", "reinforcement": {}, "critic": {}}, "has no critic"),
        ({"algorithm": "ppo", "reinforcement": {}, "critic": {"lora_rank": 8}}, "a critic is trained whole"),
        ({"algorithm": "dpo", "reinforcement": {}}, "has no meaning for algorithm dpo"),
        ({"algorithm": "sft", "preference": {}}, "has no meaning for algorithm sft"),
        ({"algorithm": "dpo", "preference": {"loss": "ipo", "label_smoothing": 0.1}}, "only the loss 'sigmoid'"),
        (
            {"algorithm": "grpo", "reinforcement": {"reward": {"kind": "verifier", "verifier": "regex"}}},
            "needs a pattern",
        ),
        (
            {"algorithm": "grpo", "reinforcement": {"reward": {"kind": "http", "url": "file:///etc/passwd"}}},
            "must be http://HOST",
        ),
        (
            {"algorithm": "grpo", "reinforcement": {"reward": {"kind": "function", "file": "a.py", "function": "a;b"}}},
            "should match pattern",
        ),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    settings = {key: value for key, value in _recipe().settings().items() if key not in {"reinforcement", "algorithm"}}
    with pytest.raises(ValidationError, match=re.escape(message)):
        Recipe.model_validate(settings | changes)


def test_a_checkpoint_of_ppo_has_its_critic() -> None:
    assert "global_step_2/critic/optim_world_size_1_rank_0.pt" in checkpoint_files(2, 1, "ppo")
    assert "global_step_2/critic/model_world_size_1_rank_0.pt" not in checkpoint_files(2, 1, "grpo")
    assert "global_step_2/data_0.pt" in checkpoint_files(2, 1, "dpo")
