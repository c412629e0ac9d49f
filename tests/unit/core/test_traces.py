"""The replay and the closed form against recorded traces of the models' own code, family by family, and the recording itself."""

from __future__ import annotations

from typing import Any

import pytest

from ltp.core.memory import Precision, Step, trainable_parameters, training_peak
from ltp.core.model_config import parameters, read_architecture
from ltp.core.replay.step import replay
from tests.trace_grid import RECORDED, asked, recorded, traced

CASES = recorded()


def named(case: dict[str, Any]) -> str:
    step = case["step"]
    words = [case["name"], f"{step['micro_batch']}x{step['sequence']}", f"r{step['lora_rank']}"]
    words += [word for word in ("checkpointing", "padded") if step.get(word)]
    return "-".join(words)


def test_the_recording_is_of_the_whole_grid() -> None:
    asked_for = [(case["config"], case["step"]) for case in asked()]
    assert [(case["config"], case["step"]) for case in CASES] == asked_for, (
        f"python -m tests.trace_grid writes {RECORDED}"
    )
    assert not [named(case) for case in CASES if "error" in case["traced"]]


@pytest.mark.parametrize("case", CASES, ids=named)
def test_predictions_are_what_the_models_code_does(case: dict[str, Any]) -> None:
    seen, given = case["traced"], case["step"]
    arch = read_architecture(case["config"])
    step = Step(
        Precision.BF16, given["micro_batch"], given["sequence"], given["checkpointing"], given["lora_rank"],
        padded=given.get("padded", False),
    )  # fmt: skip
    assert replay(arch, step).allocated == pytest.approx(seen["allocated"], rel=0.015)
    # What the search asks: never much below, or a plan called safe might not be; above, it is only timid.
    assert -0.01 < training_peak(arch, step).allocated / seen["allocated"] - 1 < 0.07
    assert trainable_parameters(arch, step.lora_rank) == seen["trained"]
    assert step.lora_rank or parameters(arch) == seen["parameters"]


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_recording_is_what_todays_packages_do(case: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    seen = traced(case)
    assert seen["allocated"] == pytest.approx(case["traced"]["allocated"], rel=0.005), seen
