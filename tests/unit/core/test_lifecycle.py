"""The life of jobs and attempts as tables."""

from __future__ import annotations

import pytest

from ltp.core.ids import uuid7
from ltp.core.lifecycle import ATTEMPT, JOB, AttemptState, JobState, render
from ltp.core.recipe import canonical, content_hash


@pytest.mark.parametrize("lifecycle", [JOB, ATTEMPT])
def test_every_state_can_be_reached_and_can_end(lifecycle: object) -> None:
    reached, frontier = {lifecycle.initial}, [lifecycle.initial]  # type: ignore[attr-defined]
    while frontier:
        for target in lifecycle.transitions[frontier.pop()]:  # type: ignore[attr-defined]
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(lifecycle.transitions)  # type: ignore[attr-defined]


def test_nothing_follows_an_end() -> None:
    for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        assert JOB.is_over(state)
        assert not any(JOB.allows(state, other) for other in JobState)


def test_a_job_can_be_cancelled_until_it_is_over() -> None:
    assert JOB.sources(JobState.CANCELLED) == {s for s in JobState if not JOB.is_over(s)}


def test_a_running_attempt_cannot_start_again() -> None:
    assert not ATTEMPT.allows(AttemptState.RUNNING, AttemptState.STARTING)


def test_the_diagram_names_every_transition() -> None:
    text = render(JOB)
    assert "[*] --> submitted" in text
    assert "queued --> running" in text
    assert "succeeded --> [*]" in text


def test_ids_sort_by_their_time_and_are_version_7() -> None:
    early, late = uuid7(1_700_000_000_000, bytes(10)), uuid7(1_700_000_000_001, bytes(10))
    assert early < late
    assert (early.version, early.variant) == (7, "specified in RFC 4122")
    assert uuid7(1, b"\xff" * 10).version == 7


def test_equal_settings_have_equal_hashes_whatever_their_order() -> None:
    assert content_hash({"a": 1, "b": [1.0, "é"]}) == content_hash({"b": [1.0, "é"], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    with pytest.raises(ValueError, match="Out of range"):
        canonical({"a": float("nan")})
