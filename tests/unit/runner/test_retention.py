"""Which checkpoints stay: the last, the best, the pinned, the used; and never none to resume from."""

from __future__ import annotations

from math import nan
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runner.retention import Held, Rule, reasons


def held(step: int, **more: Any) -> Held:
    return Held(UUID(int=step), step, 1, **more)


def stays(checkpoints: list[Held], rule: Rule, used: set[int] | None = None) -> list[int]:
    found = reasons(checkpoints, rule, {UUID(int=step) for step in used or ()})
    return sorted(key.int for key, why in found.items() if why)


def test_without_a_rule_everything_stays() -> None:
    assert stays([held(step) for step in range(5)], Rule()) == [0, 1, 2, 3, 4]


def test_the_last_stay() -> None:
    assert stays([held(step) for step in (5, 1, 3, 2, 4)], Rule(keep_last=2)) == [4, 5]


def test_the_best_stay_beside_them_and_nan_is_no_best() -> None:
    values = {1: 0.3, 2: 0.1, 3: nan, 4: None, 5: 0.2, 6: 0.9}
    checkpoints = [held(step, value=value) for step, value in values.items()]
    assert stays(checkpoints, Rule(1, 2, "min")) == [2, 5, 6]
    assert stays(checkpoints, Rule(1, 2, "max")) == [1, 6]
    assert stays([held(step, value=1.0) for step in range(4)], Rule(1, 1, "max")) == [3]


def test_pinned_used_and_unexported_ones_stay() -> None:
    checkpoints = [held(1, pinned=True), held(2), held(3, settled=False), held(4), held(5)]
    assert stays(checkpoints, Rule(keep_last=1), used={2}) == [1, 2, 3, 5]


def test_a_users_wish_outweighs_the_rule_and_nothing_else() -> None:
    wanted = [held(step, removal_wanted=True) for step in (1, 2, 3)]
    assert stays(wanted, Rule()) == [3]
    assert stays([held(1, removal_wanted=True, pinned=True), held(2)], Rule()) == [1, 2]


def test_of_a_step_that_two_attempts_saved_the_later_one_counts() -> None:
    first, second = Held(uuid4(), 4, 1), Held(uuid4(), 4, 2)
    found = reasons([second, first], Rule(keep_last=1), set())
    assert found[second.checkpoint_id]
    assert not found[first.checkpoint_id]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(
        st.builds(
            Held, st.uuids(), st.integers(0, 50), st.integers(1, 3), st.none() | st.floats(), st.booleans(),
            st.booleans(), st.booleans(),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda h: h.checkpoint_id,
    ),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 5),
)  # fmt: skip
def test_there_is_always_one_to_resume_from(checkpoints: list[Held], last: int | None, best: int | None) -> None:
    found = reasons(checkpoints, Rule(last, best), set())
    newest = max(checkpoints, key=lambda h: (h.step, h.attempt))
    assert any(found[h.checkpoint_id] for h in checkpoints if (h.step, h.attempt) == (newest.step, newest.attempt))
    assert all(found[h.checkpoint_id] for h in checkpoints if h.pinned or not h.settled)
