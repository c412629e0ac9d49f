"""What finished runs say about the predictions: pairs by kind of device, the interval they give, and whether they drift. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ltp.contracts.attempt import Measured
from ltp.contracts.calibration import Quantity
from ltp.contracts.values import Plan
from ltp.core.calibration import Drift, Interval, Pair, drift, interval

# Of a plan's components: not allocated by the trainer's torch, which is what verl reports.
_OUTSIDE = ("context", "rollout")
# Less than this share of a prediction was measured with rows shorter than the recipe's max_length.
_FULL_ROWS = 0.85


@dataclass(frozen=True)
class Observation:
    """A prediction and what came of it."""

    quantity: Quantity
    group: str
    pair: Pair


def group_of(device_model: str | None, device_kind: str, algorithm: str) -> str:
    """Whose predictions err alike: the same device and the same algorithm."""
    return f"{device_model or device_kind}:{algorithm}"


def observations(plan: Plan, algorithm: str, measured: Measured) -> Iterator[Observation]:
    """The pairs that a run gives."""
    group = group_of(plan.device_model, plan.device_kind, algorithm)
    predicted = allocated_bytes(plan)
    if measured.allocated_bytes and predicted > 0:
        yield Observation("memory", group, Pair(float(predicted), float(measured.allocated_bytes)))
    if measured.step_seconds and plan.step_seconds:
        yield Observation("step", group, Pair(plan.step_seconds, measured.step_seconds))


def allocated_bytes(plan: Plan) -> int:
    """The part of a plan's peak that the trainer's allocator hands out."""
    return sum(size for name, size in plan.memory_components.items() if name not in _OUTSIDE)


def tells(pair: Pair) -> bool:
    """Whether a pair says something of the model: predictions are for rows of full length, and shorter ones need less."""
    return pair.measured >= _FULL_ROWS * pair.predicted


def intervals(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, Interval]:
    """The interval of each group, from the pairs that tell."""
    return {group: interval([pair for pair in known if tells(pair)]) for group, known in pairs.items()}


@dataclass(frozen=True)
class Alarm:
    """What the drift test says now: its state, and whether the alarm must be raised with this pair."""

    state: Drift
    alarmed: bool
    raised: bool
    direction: Literal["too-low", "too-high"]


def watch(state: Drift, alarmed: bool, pair: Pair) -> Alarm:
    """Take one more pair into the test. An alarm is raised once, and can be again after the test has come back."""
    after = drift(state, pair) if tells(pair) else state
    direction: Literal["too-low", "too-high"] = "too-low" if after.above >= after.below else "too-high"
    return Alarm(after, after.alarm, after.alarm and not alarmed, direction)
