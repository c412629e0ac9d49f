"""Each health rule is broken by what it is for, by nothing else, and is over when the newest lines are good again."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from services.runner.health import Point, Surroundings, findings, truncated_share

GIB = 1024**3
HEALTHY: dict[str, float] = {
    "actor/entropy": 1.2, "actor/kl_loss": 0.01, "actor/ppo_kl": 0.001, "actor/grad_norm": 0.8, "actor/pg_loss": -0.01,
    "critic/advantages/max": 1.5, "critic/advantages/min": -1.2, "critic/score/mean": 0.4, "reward/error_share": 0.0,
    "reward/errors": 0.0, "response_length/max": 90.0, "response_length/clip_ratio": 0.5, "perf/time_per_step": 10.0,
    "actor/perf/max_memory_reserved_gb": 40.0,
}  # fmt: skip
AROUND = Surroundings(
    max_response_length=128, device_memory_bytes=80 * GIB, host_available_share=0.5, host_available_bytes=64 * GIB
)


def run(count: int, change: Callable[[int], dict[str, float]] = lambda _: {}) -> list[Point]:
    """Lines of a healthy run, with what differs at a step."""
    return [
        Point(step, {**HEALTHY, "critic/score/mean": 0.4 + step * 0.01, **change(step)}) for step in range(1, count + 1)
    ]


def broken(points: list[Point], **around: Any) -> set[str]:
    known = {name: getattr(AROUND, name) for name in Surroundings.__dataclass_fields__}
    return {finding.rule for finding in findings(points, Surroundings(**{**known, **around}))}


def test_a_healthy_run_has_no_findings() -> None:
    for length in (0, 1, 5, 20, 300):
        assert broken(run(length)) == set()


CASES: list[tuple[str, Callable[[int], dict[str, float]]]] = [
    ("non_finite", lambda step: {"actor/grad_norm": nan} if step == 28 else {}),
    ("non_finite", lambda step: {"critic/vf_loss": inf} if step == 30 else {}),
    ("entropy_collapse", lambda step: {"actor/entropy": 1.2 * 0.8**step}),
    ("kl_growth", lambda step: {"actor/kl_loss": 0.01 * 1.2**step}),
    ("zero_advantage", lambda step: {"critic/advantages/max": 0.0, "critic/advantages/min": 0.0} if step > 27 else {}),
    ("flat_reward", lambda _: {"critic/score/mean": 0.0}),
    ("reward_exceptions", lambda step: {"reward/error_share": 0.02} if step == 29 else {}),
    ("truncated_responses", lambda _: {"response_length/max": 128.0, "response_length/clip_ratio": 0.4}),
    ("slow_steps", lambda step: {"perf/time_per_step": 10.0 if step < 26 else 31.0}),
    ("device_memory", lambda step: {"actor/perf/max_memory_reserved_gb": 78.5} if step > 28 else {}),
]


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_a_rule_is_broken_with_its_figures_and_is_over_later(
    rule: str, change: Callable[[int], dict[str, float]]
) -> None:
    points = run(30, change)
    assert broken(points) == {rule}
    [found] = findings(points, AROUND)
    assert found.evidence, "no evidence"
    assert any(char.isdigit() for line in found.evidence for char in line)
    assert found.hint
    recovered = points + [Point(p.step + 30, p.values) for p in run(30)]
    assert broken(recovered) == set()


def test_a_validation_over_no_rows_is_no_fault_of_the_gradients() -> None:
    assert broken(run(30, lambda _: {"val/loss": nan})) == set()


def test_verls_clip_ratio_counts_only_where_the_limit_was_reached() -> None:
    assert truncated_share(Point(1, {"response_length/max": 127, "response_length/clip_ratio": 1.0}), 128) == 0.0
    assert truncated_share(Point(1, {"response_length/max": 128, "response_length/clip_ratio": 0.3}), 128) == 0.3
    assert truncated_share(Point(1, {}), 128) is None


def test_what_the_launcher_saw() -> None:
    stalled = {"limit_seconds": 600, "median_step_seconds": 12.5, "last_step": 7, "evidence": ["in wait_for_a_peer"]}
    disk = {"level": "alarm", "free_bytes": GIB, "checkpoint_bytes": GIB, "full_in_seconds": 300}
    assert broken([], stalled=stalled) == {"stalled"}
    assert broken([], disk=disk) == {"disk"}
    assert broken([], disk={"level": "ok"}) == set()
    assert broken([], host_available_share=0.02) == {"host_memory"}
    [found] = findings([], Surroundings(stalled=stalled))
    assert found.evidence == ["in wait_for_a_peer"]
    assert "step 7" in found.message
    # A launcher of another version may write what this one does not know.
    assert broken([], stalled={}, disk={"level": "warn"}) == {"stalled", "disk"}
