"""Predictions against what verl's own SFT allocated on an H200 (docs/evidence/planner-h200.md), under FSDP 1 and FSDP 2."""

from __future__ import annotations

import pytest

from ltp.core.device_memory import Rollout, phases_of
from ltp.core.known_models import known_config
from ltp.core.memory import GIB, LossHead, Precision, Step, training_peak
from ltp.core.model_config import read_architecture
from ltp.core.replay.step import replay

# Model, micro batch of 1,024 tokens, of how many, checkpointing, LoRA rank, FSDP 1, GiB seen.
RUNS = [
    ("qwen2.5-0.5b", 32, 64, False, 0, False, 87.3935), ("qwen2.5-0.5b", 8, 64, False, 0, False, 27.8578),
    ("qwen2.5-0.5b", 64, 64, True, 0, False, 83.4630), ("qwen2.5-0.5b", 32, 64, False, 0, True, 87.3863),
    ("qwen2.5-0.5b", 16, 64, False, 0, True, 47.6950), ("qwen2.5-7b", 8, 32, False, 16, False, 84.4491),
    ("qwen2.5-7b", 4, 32, False, 16, False, 57.1016), ("qwen2.5-7b", 2, 32, True, 16, False, 32.5109),
]  # fmt: skip


@pytest.mark.parametrize(("name", "micro", "rows", "checkpointing", "rank", "flat", "seen"), RUNS)
def test_what_verl_allocated(
    name: str, micro: int, rows: int, checkpointing: bool, rank: int, flat: bool, seen: float
) -> None:
    config = known_config(name)
    assert config is not None
    arch = read_architecture(config)
    step = Step(
        Precision.FSDP2, micro, 1024, checkpointing, rank, LossHead.LABELS, accumulates=rows > micro,
        fused_optimizer=True, flat=flat,
    )  # fmt: skip
    assert replay(arch, step).allocated / GIB == pytest.approx(seen, rel=0.006 if flat else 0.002)
    assert training_peak(arch, step).allocated / GIB == pytest.approx(seen, rel=0.025)


# GRPO of Qwen2.5-1.5B, 256 responses with 409.9 tokens each, at full length (docs/evidence/planner-h200-grpo15.json): the peak was
# in the update without checkpointing, else where old log-probabilities are found.
POLICY_RUNS = [("update", 32, False, 75.9762), ("update", 16, False, 49.6884), ("update", 4, False, 30.1106)]
POLICY_RUNS += [("log_prob", 16, True, 30.3445), ("log_prob", 32, True, 43.3720), ("log_prob", 64, True, 69.4275)]


@pytest.mark.parametrize(("phase", "micro", "checkpointing", "seen"), POLICY_RUNS)
def test_what_grpo_allocated(phase: str, micro: int, checkpointing: bool, seen: float) -> None:
    config = known_config("qwen2.5-1.5b")
    assert config is not None
    # One prompt is a token shorter than the others: attention gets a mask, and keys and values for every query head.
    step = Step(
        Precision.FSDP2, micro, 410, checkpointing, 0, LossHead.LABELS, accumulates=True, fused_optimizer=True, padded=True
    )  # fmt: skip
    phases = phases_of(read_architecture(config), step, Rollout(256, 410, memory_share=0.1, device_bytes=140 * GIB))
    beside = ("context", "rollout")  # vLLM sleeps, outside torch's count
    found = sum(size for name, size in phases[phase].items() if name not in beside)
    assert found / GIB == pytest.approx(seen, rel=0.02)
