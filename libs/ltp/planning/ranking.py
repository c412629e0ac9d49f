"""Which of the candidates that fit is best, for each thing one can want, and which no other beats in everything."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import log

from ltp.contracts.recipe import Recipe
from ltp.core.memory import Offload
from ltp.planning.candidates import Candidate
from ltp.planning.search import MAX_CPU_MICRO_BATCH, cost_dollars

# Predicted times nearer to each other than this are one: simpler means then decide.
_TIE = 0.02
# Headroom is compared in steps of this share, times in ties, so that the front stays short enough to read.
_HEADROOM_STEP = 0.05

Key = tuple[float, ...]


class Objective(StrEnum):
    """What the best plan is best at."""

    THROUGHPUT = "throughput"
    COST = "cost"
    FEWEST_GPUS = "fewest-gpus"
    HEADROOM = "headroom"


def objective_of(recipe: Recipe) -> Objective | None:
    """What the recipe asks for; where it leaves the number of devices open, speed. None: the smallest that is enough."""
    asked, most = recipe.resources.objective, recipe.resources.max_devices
    if asked is not None:
        return Objective(asked)
    return Objective.THROUGHPUT if most is not None and most > recipe.resources.devices else None


def ranked(recipe: Recipe, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, best first."""
    objective = objective_of(recipe)
    asked = recipe.resources.micro_batch_size is not None
    return sorted(candidates, key=lambda candidate: _key(candidate, objective, asked, recipe))


def _key(candidate: Candidate, objective: Objective | None, asked: bool, recipe: Recipe) -> Key:
    """Smaller is better."""
    pool, layout = candidate.pool, candidate.layout
    speed = _speed(candidate, asked)
    size = (float(pool.devices), float(pool.memory_bytes), float(pool.free_bytes))
    if objective is Objective.COST:
        cost = cost_dollars(recipe, candidate)
        return (_tied(cost), *speed, *size)
    if objective is Objective.FEWEST_GPUS:
        return (float(pool.devices), *speed, *size)
    if objective is Objective.HEADROOM:
        return (-round(candidate.headroom / _HEADROOM_STEP), *speed, *size)
    if objective is Objective.THROUGHPUT:
        return (*speed, *size)
    # The smallest device that is enough without the means that slow it down.
    means = (float(layout.offload is not Offload.NONE), float(layout.fused_head))
    return (*means, *size[:2], *speed, size[2])


def _speed(candidate: Candidate, asked: bool) -> Key:
    layout, pool = candidate.layout, candidate.pool
    if candidate.seconds is not None:
        return (_tied(candidate.seconds), float(layout.levers), -round(candidate.headroom, 2), candidate.seconds)
    oversized = pool.kind == "cpu" and not asked and layout.micro_batch > MAX_CPU_MICRO_BATCH
    return (
        float(oversized), float(layout.offload is not Offload.NONE), float(layout.fused_head),
        float(layout.checkpointing), -float(layout.micro_batch), float(pool.devices - layout.shards),
    )  # fmt: skip


def _tied(value: float | None) -> float:
    return float("inf") if value is None else float(round(log(max(value, 1e-9)) / _TIE))


def pareto(recipe: Recipe, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other equals or beats in time, cost, devices and headroom together; fastest first."""
    best: dict[Key, Candidate] = {}
    for candidate in candidates:
        best.setdefault(_scores(recipe, candidate), candidate)
    front: list[tuple[Key, Candidate]] = []
    for scores, candidate in sorted(best.items(), key=lambda item: item[0]):
        if not any(all(a <= b for a, b in zip(other, scores, strict=True)) for other, _ in front):
            front.append((scores, candidate))
    return [candidate for _, candidate in front]


def _scores(recipe: Recipe, candidate: Candidate) -> Key:
    cost = cost_dollars(recipe, candidate)
    headroom = -float(round(candidate.headroom / _HEADROOM_STEP))
    return (_tied(candidate.seconds), _tied(cost), float(candidate.pool.devices), headroom)
