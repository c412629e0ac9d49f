"""When schedules tick, at the changes of the clock and after a sleep, and what happens to ticks that meet."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.contracts.schedule import ScheduleSpec
from ltp.core.errors import ErrorCode, LtpError
from services.scheduler.schedules.policy import plan
from services.scheduler.schedules.rhythm import first_after, instants, newest_due

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)


def schedule(**given: Any) -> ScheduleSpec:
    return ScheduleSpec(name="x", action={"kind": "maintenance", "task": "host-probe"}, **given)


def next_ones(cron: str, after: datetime, count: int = 3) -> list[str]:
    spec = schedule(cron=cron, timezone="Europe/Berlin")
    return [f"{at:%d %H:%M}" for at in itertools.islice(instants(spec, after, after), count)]


def test_a_time_that_does_not_exist_comes_when_the_clock_goes_on() -> None:
    assert next_ones("30 2 * * *", NOON) == ["29 01:00", "30 00:30", "31 00:30"]


def test_two_times_in_the_gap_are_one_moment() -> None:
    assert next_ones("0,30 2 * * *", NOON, 2) == ["29 01:00", "30 00:00"]


def test_a_time_that_comes_twice_ticks_once() -> None:
    assert next_ones("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == ["25 00:30", "26 01:30"]


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 2,4,6 *"])
def test_what_never_fires_is_refused(cron: str) -> None:
    with pytest.raises(LtpError, match="never fires") as caught:
        first_after(schedule(cron=cron), NOON, NOON)
    assert caught.value.code is ErrorCode.INVALID_SCHEDULE


@pytest.mark.parametrize("cron", ["61 * * * *", "* * * *", "L/2 * * * *", "*/0 * * * *", "5-1 * * * *", "a b c d e"])
def test_what_is_no_cron_is_refused(cron: str) -> None:
    with pytest.raises(LtpError, match="not valid"):
        first_after(schedule(cron=cron), NOON, NOON)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(LtpError, match="no time zone"):
        first_after(schedule(cron="0 0 * * *", timezone=zone), NOON, NOON)


@pytest.mark.parametrize("given", [{"every_seconds": 0}, {"every_seconds": -5}, {"every_seconds": 1e12}, {}])
def test_absurd_rhythms_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="every_seconds"):
        schedule(**given)


@given(st.integers(1, 10_000), st.integers(0, 10**7), st.integers(1, 20))
def test_the_newest_missed_are_found_without_counting_all(every: int, asleep: int, limit: int) -> None:
    spec = schedule(every_seconds=every)
    first, now = NOON + timedelta(seconds=every), NOON + timedelta(seconds=asleep)
    found = newest_due(spec, NOON, first, now, limit)
    ticked = asleep // every
    assert found == [NOON + timedelta(seconds=every * k) for k in range(max(1, ticked - limit + 1), ticked + 1)]


def test_a_cron_of_seconds_that_slept_for_years_answers_at_once() -> None:
    now = NOON + timedelta(days=3000)
    assert newest_due(schedule(cron="* * * * * *"), NOON, NOON, now, 3)[-1] == now


def fates(spec: ScheduleSpec, ages: list[int], **busy: bool) -> list[str]:
    due = [NOON - timedelta(seconds=age) for age in ages]
    at_work = {"running": False, "waiting": False} | busy
    return [p.fate for p in sorted(plan(spec, due, NOON, **at_work), key=lambda p: p.due_at)]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("none", ["missed"] * 3), ("last", ["missed", "missed", "running"]), ("all", ["running"] * 3)],
)
def test_what_was_missed_is_caught_up_as_asked(catch_up: Any, expected: list[str]) -> None:
    assert fates(schedule(every_seconds=60, catch_up=catch_up, overlap="allow"), [3000, 2000, 1000]) == expected


def test_catching_up_is_bounded() -> None:
    spec = schedule(every_seconds=60, catch_up="all", catch_up_limit=2, overlap="allow")
    assert fates(spec, [4000, 3000, 2000, 1000]) == ["missed", "missed", "running", "running"]


@pytest.mark.parametrize(("overlap", "expected"), [("skip", "skipped"), ("allow", "running"), ("queue-one", "waiting")])
def test_a_tick_meets_one_still_at_work(overlap: Any, expected: str) -> None:
    assert fates(schedule(every_seconds=60, overlap=overlap), [0], running=True) == [expected]


def test_only_one_tick_waits() -> None:
    assert fates(schedule(every_seconds=60, overlap="queue-one"), [0], running=True, waiting=True) == ["skipped"]
