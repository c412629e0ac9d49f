"""Which of several checkpoints to keep, by a metric that is known with an uncertainty. Pure.

The score that selects is optimistic for the one selected: it is the largest of several. What is reported is therefore a
score on another split (`Candidate.report`), which had no say in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TieRule = Literal["earliest", "latest", "best"]
NanPolicy = Literal["refuse", "skip"]
# 1.96 standard errors to each side make an interval of 95 %.
Z95 = 1.959963984540054


class SelectionError(ValueError):
    """There is no sound choice; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint with its score on the split that selects, and (where known) on the one that is reported."""

    name: str
    score: float | None
    stderr: float | None = None
    step: int | None = None
    report: float | None = None


@dataclass(frozen=True)
class Rule:
    """How to choose. `within`: how many standard errors of the difference from the best still count as a tie."""

    direction: Literal["max", "min"] = "max"
    tie: TieRule = "earliest"
    within: float = 1.0
    nan: NanPolicy = "refuse"


@dataclass(frozen=True)
class Choice:
    """The chosen place among the candidates, the best by score alone, all that tie with it, and those passed over."""

    chosen: int
    best: int
    tied: list[int]
    skipped: list[int]


def select(candidates: Sequence[Candidate], rule: Rule) -> Choice:
    """Choose a checkpoint. Raises SelectionError: no candidate, a score that is missing or not finite.

    A tie is a difference of at most `within` standard errors, those of both scores together (the one-standard-error rule of
    Breiman et al. 1984, "Classification and Regression Trees", for independent scores); without standard errors, equality.
    """
    skipped = [i for i, c in enumerate(candidates) if c.score is None or not math.isfinite(c.score)]
    if skipped and rule.nan == "refuse":
        bad = candidates[skipped[0]]
        said = "no score" if bad.score is None else f"the score {bad.score}"
        raise SelectionError(f"{bad.name} has {said}, and {len(skipped)} of {len(candidates)} are like it")
    left = [i for i in range(len(candidates)) if i not in skipped]
    if not left:
        raise SelectionError("no candidate has a finite score")
    sign = 1.0 if rule.direction == "max" else -1.0
    height = {i: sign * (candidates[i].score or 0.0) for i in left}
    age = {i: (_step(candidates[i], i), i) for i in left}
    best = max(left, key=lambda i: (height[i], -age[i][0], -i))
    top = candidates[best]
    tied = [i for i in left if height[best] - height[i] <= rule.within * _spread(top, candidates[i])]
    if rule.tie == "best":
        return Choice(best, best, tied, skipped)
    chosen = min(tied, key=age.__getitem__) if rule.tie == "earliest" else max(tied, key=age.__getitem__)
    return Choice(chosen, best, tied, skipped)


def _step(candidate: Candidate, place: int) -> float:
    return place if candidate.step is None else candidate.step


def _spread(one: Candidate, other: Candidate) -> float:
    return math.hypot(one.stderr or 0.0, other.stderr or 0.0) if one is not other else 0.0


def stderr_of_interval(low: float, high: float) -> float:
    """The standard error that a 95 % interval stands for."""
    return (high - low) / (2 * Z95)


def stderr_of_share(share: float, count: int) -> float:
    """The standard error of a share of `count` rows."""
    return math.sqrt(max(0.0, share * (1 - share)) / count)
