"""What is left of a job, by the pace of its newest steps."""

from __future__ import annotations

from services.gateway.routes.standing import eta


def test_the_pace_is_of_the_newest_attempt() -> None:
    lines = [(2, 12, 130.0), (2, 11, 120.0), (2, 10, 110.0), (1, 30, 5.0)]
    assert eta(lines, 20) == 80.0


def test_one_step_tells_no_pace() -> None:
    assert eta([(1, 1, 5.0)], 20) is None
    assert eta([], 20) is None


def test_who_is_beyond_its_steps_has_nothing_left() -> None:
    assert eta([(1, 21, 20.0), (1, 20, 10.0)], 20) == 0
