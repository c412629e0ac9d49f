"""The health rules: what a window of metrics says is wrong with a training, each finding with its figures. Pure.

A rule looks at the newest lines against earlier ones of the same attempt. It stays broken until the newest lines are good
again, so that an alarm is raised once and cleared once. The limits are those that users of verl name in its issues and
guides (shared reference, section 4.2); each stands where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ltp.contracts.alarm import Severity

_GIB = 1024**3
# Lines that are "now", and how many there must be before them to compare with.
_NOW, _BEFORE = 5, 5
_STEP_SECONDS = "perf/time_per_step"


@dataclass(frozen=True)
class Point:
    """One line of metrics."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Surroundings:
    """What is known of a run beside its metrics; None and 0 where it is not."""

    max_response_length: int | None = None
    device_memory_bytes: int | None = None
    host_available_share: float | None = None
    host_available_bytes: int | None = None
    # As the launcher wrote them in status.json.
    stalled: Mapping[str, object] | None = None
    disk: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Finding:
    """A rule that is broken, with what proves it."""

    rule: str
    severity: Severity
    message: str
    hint: str
    evidence: list[str] = field(default_factory=list[str])


def findings(points: Sequence[Point], around: Surroundings) -> list[Finding]:
    """Every rule that is broken now; `points` are the lines of one attempt, oldest first."""
    return [
        found
        for rule in (
            _not_finite, _entropy, _kl, _advantage, _reward, _exceptions, _truncation, _slower, _device_memory,
        )
        if (found := rule(points, around)) is not None
    ] + [found for rule in (_host_memory, _stalled, _disk) if (found := rule(around)) is not None]  # fmt: skip


def series(points: Sequence[Point], name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, where it was logged."""
    return [(point.step, point.values[name]) for point in points if name in point.values]


def shown(name: str, values: Sequence[tuple[int, float]], most: int = 6) -> list[str]:
    """The newest values as lines of evidence."""
    return [f"step {step}: {name} = {value:.6g}" for step, value in values[-most:]]


def _not_finite(points: Sequence[Point], _: Surroundings) -> Finding | None:
    bad = [
        (point.step, name, value)
        for point in points[-_NOW:]
        for name, value in point.values.items()
        if name.endswith(("grad_norm", "/loss", "pg_loss", "vf_loss"))
        # The loss over a validation set that is too small is no news of the training.
        and not name.startswith("val")
        and not math.isfinite(value)
    ]
    if not bad:
        return None
    return Finding(
        "non_finite",
        "critical",
        f"{bad[-1][1]} was not finite at step {bad[-1][0]}; verl skips such a step and goes on.",
        "Lower training.learning_rate or max_grad_norm, and look at the rows of that step.",
        [f"step {step}: {name} = {value}" for step, name, value in bad],
    )


def _halves(points: Sequence[Point], name: str) -> tuple[float, float, list[tuple[int, float]]] | None:
    """The median of the lines before and of those now; None while there are too few."""
    values = [(step, value) for step, value in series(points, name) if math.isfinite(value)]
    if len(values) < _NOW + _BEFORE:
        return None
    then = [value for _, value in values[:-_NOW]]
    return median(then[:_BEFORE]), median(value for _, value in values[-_NOW:]), values


def _entropy(points: Sequence[Point], _: Surroundings) -> Finding | None:
    found = _halves(points, "actor/entropy")
    # Below a tenth of what it began with, nothing is explored any more.
    if found is None or found[0] <= 0 or found[1] >= 0.1 * found[0]:
        return None
    first, now, values = found
    return Finding(
        "entropy_collapse",
        "warning",
        f"The policy's entropy fell from {first:.4g} to {now:.4g}: its responses hardly differ any more.",
        "Raise reinforcement.entropy_coefficient or clip_high, add a KL term, or lower the learning rate.",
        [f"median of the first {_BEFORE} steps: {first:.6g}", *shown("actor/entropy", values)],
    )


def _kl(points: Sequence[Point], _: Surroundings) -> Finding | None:
    for name in ("actor/kl_loss", "actor/reward_kl_penalty", "actor/ppo_kl"):
        found = _halves(points, name)
        if found is None:
            continue
        first, now, values = found
        # A tenth of a nat a token is far from the reference, and ten times the beginning is growth.
        if abs(now) > 0.1 and abs(now) > 10 * max(abs(first), 1e-4):
            return Finding(
                "kl_growth",
                "warning",
                f"{name} grew from {first:.4g} to {now:.4g}: the policy runs away from its reference.",
                "Raise the KL coefficient, or lower training.learning_rate.",
                [f"median of the first {_BEFORE} steps: {first:.6g}", *shown(name, values)],
            )
    return None


def _advantage(points: Sequence[Point], _: Surroundings) -> Finding | None:
    both = [
        (point.step, point.values["critic/advantages/max"], point.values["critic/advantages/min"])
        for point in points[-3:]
        if {"critic/advantages/max", "critic/advantages/min"} <= point.values.keys()
    ]
    if len(both) < 3 or any(abs(high) > 1e-8 or abs(low) > 1e-8 for _, high, low in both):
        return None
    return Finding(
        "zero_advantage",
        "critical",
        "All advantages of the last 3 steps are 0: every response of a group got the same reward, and nothing is learnt.",
        "The reward is wired wrongly, or the task is too hard or too easy for the model.",
        [f"step {step}: critic/advantages between {low:.3g} and {high:.3g}" for step, high, low in both],
    )


def _reward(points: Sequence[Point], _: Surroundings) -> Finding | None:
    name = "critic/score/mean"
    values = series(points, name)[-2 * _NOW :]
    if len(values) < 2 * _NOW:
        return None
    low, high = min(v for _, v in values), max(v for _, v in values)
    # A reward at its ceiling is flat for a good reason, which nobody can tell from here but its spread: none at all.
    if not math.isfinite(low + high) or high - low > 1e-6 * max(1.0, abs(high)):
        return None
    return Finding(
        "flat_reward",
        "warning",
        f"The mean reward has been {high:.6g} for {len(values)} steps without any change.",
        "`ltp job submit --dry-run` tries the reward on rows; a constant one teaches nothing.",
        shown(name, values),
    )


def _exceptions(points: Sequence[Point], _: Surroundings) -> Finding | None:
    name = "reward/error_share"
    values = series(points, name)[-_NOW:]
    worst = max((value for _, value in values), default=0.0)
    if worst <= 0:
        return None
    return Finding(
        "reward_exceptions",
        "critical" if worst > 0.1 else "warning",
        f"The reward failed on up to {worst:.1%} of a step's responses; each counts as 0.",
        "reward_errors.jsonl in the run's directory has the exceptions.",
        [*shown(name, values), *shown("reward/errors", series(points, "reward/errors")[-1:])],
    )


def truncated_share(point: Point, limit: int) -> float | None:
    """The share of the responses that reached the limit.

    verl's clip_ratio is the share as long as the longest of the batch: that of the cut ones only if the longest was cut.
    """
    longest, share = (point.values.get(f"response_length/{name}") for name in ("max", "clip_ratio"))
    if longest is None or share is None:
        return None
    return share if longest >= limit else 0.0


def _truncation(points: Sequence[Point], around: Surroundings) -> Finding | None:
    limit = around.max_response_length
    if limit is None:
        return None
    shares = [(p.step, share) for p in points[-_NOW:] if (share := truncated_share(p, limit)) is not None]
    if len(shares) < _NOW or median(share for _, share in shares) <= 0.25:
        return None
    return Finding(
        "truncated_responses",
        "warning",
        f"{median(s for _, s in shares):.0%} of the responses are cut off at {limit} tokens.",
        "Raise reinforcement.max_response_length, or make length cost something (overlong_buffer).",
        shown("truncated share", shares),
    )


def _slower(points: Sequence[Point], _: Surroundings) -> Finding | None:
    values = [(step, value) for step, value in series(points, _STEP_SECONDS) if math.isfinite(value)]
    # The first step compiles.
    then, now = [v for _, v in values[1:-_NOW]], [v for _, v in values[-_NOW:]]
    if len(then) < _BEFORE:
        return None
    before, after = median(then), median(now)
    if after <= 2 * before or after - before < 1.0:
        return None
    return Finding(
        "slow_steps",
        "warning",
        f"A step takes {after:.1f} s now, and took {before:.1f} s before.",
        "Somebody else may use the host; `ltp job progress` and the samples of the run tell more.",
        [f"median of {len(then)} earlier steps: {before:.3f} s", *shown(_STEP_SECONDS, values)],
    )


def _device_memory(points: Sequence[Point], around: Surroundings) -> Finding | None:
    limit = around.device_memory_bytes
    if not limit:
        return None
    peaks = [
        (point.step, name, value * _GIB)
        for point in points[-_NOW:]
        for name, value in point.values.items()
        if name.endswith("perf/max_memory_reserved_gb") and math.isfinite(value)
    ]
    full = [(step, name, value) for step, name, value in peaks if value > 0.97 * limit]
    if not full:
        return None
    step, name, value = full[-1]
    return Finding(
        "device_memory",
        "warning",
        f"torch holds {value / _GIB:.1f} of the device's {limit / _GIB:.1f} GiB: a longer row may not fit.",
        "Lower resources.micro_batch_size or training.max_length before it runs out.",
        [f"step {step}: {name} = {value / _GIB:.3f} of {limit / _GIB:.3f} GiB"],
    )


def _host_memory(around: Surroundings) -> Finding | None:
    share, left = around.host_available_share, around.host_available_bytes
    if share is None or share >= 0.05:
        return None
    told = "" if left is None else f" ({left / _GIB:.2f} GiB)"
    return Finding(
        "host_memory",
        "critical",
        f"The host has {share:.1%} of its memory left{told}; the kernel ends a process when it is gone.",
        "End what else runs there, or turn offloading to the CPU off.",
        [f"available at the launcher's last sample: {share:.2%}{told}"],
    )


def _stalled(around: Surroundings) -> Finding | None:
    stalled = around.stalled
    if stalled is None:
        return None
    step, limit = stalled.get("median_step_seconds"), stalled.get("limit_seconds")
    steps = f"; a step takes {step:.1f} s" if isinstance(step, int | float) else ""
    return Finding(
        "stalled",
        "critical",
        f"No metrics since step {str(stalled.get('last_step') or 0)[:20]}, for longer than {str(limit)[:20]} s{steps}.",
        "The stacks of its processes are in stacks/ of the run's directory. `ltp job pause` and `resume` start it anew.",
        list(_lines(stalled.get("evidence"))),
    )


def _disk(around: Surroundings) -> Finding | None:
    disk = around.disk
    if disk is None or disk.get("level") in {None, "ok"}:
        return None
    free, need = _bytes(disk, "free_bytes"), _bytes(disk, "checkpoint_bytes")
    full = disk.get("full_in_seconds")
    pace = f" At the pace of the last minutes it is full in {str(full)[:20]} s." if full is not None else ""
    paused = " The run saves and pauses now." if disk["level"] == "pause" else ""
    return Finding(
        "disk",
        "warning" if disk["level"] == "warn" else "critical",
        f"The run's disk has {free / _GIB:.2f} GiB free, and a checkpoint takes about {need / _GIB:.2f}.{pace}{paused}",
        "Free space there, or keep fewer checkpoints (`checkpoints:` in the recipe, `ltp checkpoint remove`).",
        [f"{name} = {value}"[:400] for name, value in sorted(disk.items())[:24]],
    )


def _bytes(disk: Mapping[str, object], name: str) -> float:
    value = disk.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from (str(line)[:400] for line in value[:24])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
