"""The planner's choices on paper hosts: what wins, why the others lost, and what a refusal advises."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Device
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.memory import GIB
from ltp.core.model_config import Architecture, read_architecture
from ltp.planning.choice import choose
from ltp.planning.pools import HostFacts
from ltp.planning.report import MAX_REJECTIONS
from ltp.planning.search import MAX_CPU_MICRO_BATCH

SMOLLM = read_architecture(
    {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
)  # fmt: skip
QWEN_7B = read_architecture(
    {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
    }
)  # fmt: skip


def recipe(algorithm: str = "sft", resources: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "algorithm": algorithm,
            "model": {"path": "/models/m"},
            "dataset": {"name": "d"},
            "training": {"steps": 1, "batch_size": 32, "learning_rate": 1e-5, "max_length": 512} | training,
            "reinforcement": {"max_response_length": 64} if algorithm == "grpo" else None,
            "resources": resources or {},
        }
    )


def host(cpu_gib: float = 24, gpus: int = 0, gpu_gib: float = 139.8) -> HostFacts:
    cpu = Device(index=0, kind="cpu", model="cpu", memory_bytes=int(cpu_gib * GIB))
    gpu = [Device(index=n, kind="gpu", model="gpu", memory_bytes=int(gpu_gib * GIB)) for n in range(gpus)]
    return HostFacts("here", [cpu, *gpu], int(max(cpu_gib, 256 * gpus) * GIB), 16)


def refusal(asked: Recipe, arch: Architecture, *hosts: HostFacts) -> LtpError:
    with pytest.raises(LtpError) as caught:
        choose(asked, arch, hosts)
    return caught.value


def test_small_model_on_a_processor() -> None:
    plan = choose(recipe(max_length=256), SMOLLM, [host()])
    assert (plan.device_kind, plan.micro_batch_size, plan.gradient_checkpointing) == ("cpu", 8, False)
    assert plan.parameters == 134_515_008
    assert plan.memory_bytes == sum(plan.memory_components.values()) < plan.memory_upper_bytes
    reasons = {rejected.candidate: rejected.reason for rejected in plan.rejected}
    assert "no faster" in reasons["micro batch 16, no gradient checkpointing"]


def test_auto_takes_the_gpu_and_a_large_micro_batch() -> None:
    plan = choose(recipe(), SMOLLM, [host(), host(gpus=1)])
    assert (plan.device_kind, plan.micro_batch_size, plan.gradient_checkpointing) == ("gpu", 32, False)
    assert choose(recipe(resources={"device_kind": "cpu"}), SMOLLM, [host(gpus=1)]).device_kind == "cpu"


def test_nine_billion_need_two_h200_or_much_host_memory() -> None:
    nine = replace(QWEN_7B, layers=36)
    plan = choose(recipe(max_length=4096, resources={"devices": 2}), nine, [host(gpus=2)])
    assert (plan.devices, plan.offload) == (2, "none")
    alone = choose(recipe(max_length=4096), nine, [host(gpus=1)])
    assert alone.offload == "all" and (alone.host_memory_bytes or 0) > 120e9
    small = replace(host(gpus=1), memory_bytes=64 * GIB)
    error = refusal(recipe(max_length=4096, resources={"device_kind": "gpu"}), nine, small)
    assert error.code is ErrorCode.PLAN_DOES_NOT_FIT and "of host memory" in error.message
    adapted = recipe(max_length=4096, lora_rank=16, resources={"device_kind": "gpu"})
    assert choose(adapted, nine, [small]).offload == "none"


def test_seven_billion_fit_one_h200_because_adamw_is_fused() -> None:
    plan = choose(recipe(max_length=4096), QWEN_7B, [host(gpus=1)])
    assert (plan.devices, plan.offload) == (1, "none")


def test_advice_is_true() -> None:
    tight = host(cpu_gib=6)
    error = refusal(recipe(max_length=8192), SMOLLM, tight)
    length = re.search(r"training\.max_length: (\d+)", error.hint)
    assert length, error.hint
    assert choose(recipe(max_length=int(length[1])), SMOLLM, [tight]).device_kind == "cpu"
    memory = re.search(r"a device with ([\d.]+) GiB", error.hint)
    assert memory
    assert choose(recipe(max_length=8192), SMOLLM, [host(cpu_gib=float(memory[1]) + 0.1)])


def test_nothing_helps_but_a_smaller_model() -> None:
    assert "a smaller model" in refusal(recipe(), QWEN_7B, host(cpu_gib=2)).hint


def test_grpo_counts_samples_and_the_generator() -> None:
    plan = choose(recipe("grpo", batch_size=4), SMOLLM, [host()])
    assert plan.memory_components["rollout"] > 0
    assert plan.micro_batch_size <= MAX_CPU_MICRO_BATCH
    on_gpu = choose(recipe("grpo", batch_size=4), SMOLLM, [host(gpus=1)])
    assert on_gpu.micro_batch_size == 32


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (recipe(max_length=9000), "max_length is 9000, and the model has 8192"),
        (recipe(resources={"micro_batch_size": 5}), "micro_batch_size 5 does not divide the 32"),
        (recipe(batch_size=3, resources={"devices": 2}), "3 sequences a step cannot be shared evenly by 2"),
        (recipe("grpo", max_length=64), "leaves no room for a prompt"),
    ],
)
def test_contradictions(asked: Recipe, said: str) -> None:
    error = refusal(asked, SMOLLM, host(gpus=2))
    assert error.code is ErrorCode.INVALID_RECIPE and said in error.message


def test_no_host() -> None:
    assert refusal(recipe(), SMOLLM).code is ErrorCode.NO_HOST
    for resources in ({"device_kind": "gpu"}, {"devices": 2}):
        assert refusal(recipe(resources=resources), SMOLLM, host()).code is ErrorCode.NO_HOST


def test_a_given_micro_batch_is_kept() -> None:
    plan = choose(recipe(resources={"micro_batch_size": 16}, max_length=64), SMOLLM, [host()])
    assert plan.micro_batch_size == 16


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 96), st.sampled_from([64, 256, 2048]), st.sampled_from(["sft", "grpo"]),
    st.floats(1, 64), st.sampled_from([0, 1, 4]), st.sampled_from([0, 16]),
)  # fmt: skip
def test_every_plan_fits_and_divides(
    batch: int, length: int, algorithm: str, memory: float, gpus: int, rank: int
) -> None:
    asked = recipe(algorithm, {"devices": max(gpus, 1)}, batch_size=batch, max_length=length, lora_rank=rank)
    try:
        plan = choose(asked, SMOLLM, [host(cpu_gib=memory, gpus=gpus, gpu_gib=memory)])
    except LtpError as error:
        assert error.code in (ErrorCode.PLAN_DOES_NOT_FIT, ErrorCode.INVALID_RECIPE) and error.hint
        return
    sequences = batch * (8 if algorithm == "grpo" else 1)
    assert sequences % (plan.devices * plan.micro_batch_size) == 0
    assert plan.memory_upper_bytes < plan.device_memory_bytes
    assert len(plan.rejected) <= MAX_REJECTIONS
