"""Predictions against what verl's own SFT allocated on an H200 (docs/evidence/planner-h200.md), under FSDP 1 and FSDP 2."""

from __future__ import annotations

import pytest

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
