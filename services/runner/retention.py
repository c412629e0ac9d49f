"""Which checkpoints of a job stay, and why each of them does. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID


@dataclass(frozen=True)
class Held:
    """A checkpoint that lies on the disk."""

    checkpoint_id: UUID
    step: int
    attempt: int
    value: float | None = None
    pinned: bool = False
    # Its export is over: until then surgery reads it.
    settled: bool = True
    removal_wanted: bool = False


@dataclass(frozen=True)
class Rule:
    """The recipe's; without it every checkpoint stays."""

    keep_last: int | None = None
    keep_best: int | None = None
    direction: Literal["min", "max"] = "min"


def reasons(checkpoints: Sequence[Held], rule: Rule, used: Collection[UUID]) -> dict[UUID, list[str]]:
    """Why each checkpoint of one job stays; one without a reason goes.

    What is pinned, in use, not exported yet or the last to resume from stays whatever anybody wants.
    """
    ordered = sorted(checkpoints, key=lambda held: (held.step, held.attempt))
    best = {held.checkpoint_id for held in _best(ordered, rule)}
    last = {held.checkpoint_id for held in (ordered[-rule.keep_last :] if rule.keep_last else ordered)}
    found: dict[UUID, list[str]] = {}
    for held in ordered:
        why: list[str] = []
        if held is ordered[-1]:
            why.append("the newest one, from which the job resumes")
        if held.pinned:
            why.append("pinned")
        if held.checkpoint_id in used:
            why.append("in use")
        if not held.settled:
            why.append("not exported yet")
        if not held.removal_wanted:
            if held.checkpoint_id in last:
                why.append(f"one of the last {rule.keep_last}" if rule.keep_last else "every checkpoint stays")
            if held.checkpoint_id in best:
                why.append(f"one of the best {rule.keep_best}")
        found[held.checkpoint_id] = why
    return found


def _best(ordered: Sequence[Held], rule: Rule) -> list[Held]:
    """The best by the metric; of equals the later one. One without a value, or with NaN, is no candidate."""
    known = [h for h in ordered if h.value is not None and math.isfinite(h.value)]
    sign = 1 if rule.direction == "min" else -1
    ranked = sorted(known, key=lambda held: (sign * (held.value or 0.0), -held.step, -held.attempt))
    return ranked[: rule.keep_best or 0]
