"""Each of verl's thirty rules is broken in turn, alone, and says by how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ltp.planning.constraints import rules, violations
from ltp.planning.facts import Facts

SFT = Facts(is_rl=False, batch=64, rows=640, max_length=1024, devices=8, micro_batch=4, heads=32, kv_heads=8)
RL = Facts(
    is_rl=True, batch=64, rows=640, max_length=1024, devices=8, micro_batch=4, log_prob_micro_batch=4, heads=32,
    kv_heads=8, samples=8, mini_batch=64, prompt_length=512, response_length=512, rollout="vllm",
    rollout_max_length=1024, max_positions=4096, slots=64,
)  # fmt: skip
PACKED = replace(
    RL, dynamic=True, log_prob_dynamic=True, micro_batch=None, log_prob_micro_batch=None, token_budget=4096,
    log_prob_token_budget=4096, remove_padding=True, sequence_parallel=2,
)  # fmt: skip


@pytest.mark.parametrize("facts", [SFT, RL, PACKED])
def test_what_is_right_breaks_none(facts: Facts) -> None:
    assert violations(facts) == []


BROKEN: list[tuple[int, Facts, dict[str, Any], str]] = [
    (1, RL, {"samples": 1, "batch": 20, "mini_batch": 20, "micro_batch": 1, "log_prob_micro_batch": 1}, "4 left over"),
    (2, RL, {"mini_batch": 128}, "exceeds the batch of 64 by 64"),
    (3, RL, {"legacy_micro_batch": 8}, "given both"),
    (3, RL, {"log_prob_micro_batch": None}, "log-probabilities"),
    (4, RL, {"samples": 1, "batch": 20, "mini_batch": 20, "micro_batch": 1, "log_prob_micro_batch": 1}, "8 replicas"),
    (5, RL, {"micro_batch": 3}, "64 sequences of a replica do not divide by 3"),
    (6, RL, {"log_prob_micro_batch": 5}, "do not divide by 5"),
    (7, RL, {"mini_batch": 48}, "16 left over"),
    (8, RL, {"log_prob_dynamic": True}, "dynamic batches are False"),
    (9, PACKED, {"token_budget": 500}, "12 fewer than the longest"),
    (9, PACKED, {"uses_reference": True, "reference_sequence_parallel": 1, "log_prob_token_budget": 600}, "424 fewer"),
    (10, RL, {"rollout_tensor_parallel": 3, "heads": 33}, "2 left over"),
    (11, RL, {"rollout_tensor_parallel": 8, "heads": 12}, "4 left over"),
    (12, RL, {"sequence_parallel": 2}, "use_remove_padding"),
    (12, PACKED, {"sequence_parallel": 8, "heads": 28}, "28 attention heads"),
    (13, SFT, {"shards": 3}, "2 left over"),
    (14, RL, {"rollout_expert_parallel": 3}, "neither 1 nor"),
    (15, RL, {"lora_rank": 640, "rollout_load_format": "safetensors"}, "128 more than vLLM's 512"),
    (15, RL, {"lora_rank": 16}, "safetensors"),
    (16, SFT, {"max_positions": 1000}, "24 more than the model's 1000"),
    (16, RL, {"rollout_max_length": 1000}, "24 fewer than prompt and response"),
    (17, RL, {"validation_samples": True, "temperature": 0.0}, "temperature 0"),
    (18, RL, {"rollout": None}, "no rollout None"),
    (18, RL, {"rollout_mode": "sync"}, "'sync' is gone"),
    (19, RL, {"trainer_mode": "separate_async", "mini_batch": 32}, "is not 32"),
    (20, RL, {"parameter_sync_step": 3}, "1 left over"),
    (21, SFT, {"rows": 60}, "4 fewer than one batch"),
    (22, SFT, {"host_devices": 4}, "4 more than it has"),
    (22, RL, {"slots": 20}, "4 fewer than 8 workers"),
    (23, RL, {"slots": 30}, "4 fewer than workers and helpers"),
    (24, SFT, {"batch": 60, "rows": 600}, "4 left over"),
    (24, SFT, {"validation_rows": 10}, "the loss is NaN"),
    (25, SFT, {"save_every": 0}, "divides by zero"),
    (26, RL, {"filter_groups": True}, "no metric"),
    (27, RL, {"strategy": "megatron", "use_mbridge": False}, "use_mbridge"),
    (28, RL, {"verl": "0.7.0", "agent_workers": 7}, "1 left over"),
    (29, RL, {"loss_mode": "clip-cov"}, "no policy loss 'clip-cov'"),
    (29, RL, {"estimator": "remax"}, "remax does not work"),
    (30, SFT, {"resume_path": "/runs/global_step_10/"}, "does not end in global_step_N"),
]


@pytest.mark.parametrize(("number", "right", "change", "said"), BROKEN)
def test_a_broken_rule_says_by_how_much(number: int, right: Facts, change: dict[str, Any], said: str) -> None:
    found = {violation.number: violation for violation in violations(replace(right, **change))}
    assert number in found and said in found[number].message
    assert str(found[number]).startswith(f"rule {number} ({found[number].name})")


def test_every_rule_can_be_broken() -> None:
    assert {number for number, *_ in BROKEN} == {number for number, _ in rules()} == set(range(1, 31))
