"""The order of work: nothing starves, nobody pushes in, and limits hold back only what they name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ltp.queue.policy import (
    HEAD_START_SECONDS,
    JOIN_WINDOW,
    PRIORITIES,
    PRIORITY_SECONDS,
    SPACING_SECONDS,
    Allowance,
    Limit,
    Queue,
    admitted,
    sort_at,
    turn,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
queues = st.sampled_from(list(Queue))
seconds = st.floats(0, 1e6, allow_nan=False)
priorities = st.integers(PRIORITIES[0], PRIORITIES[-1])
instants = seconds.map(lambda s: START + timedelta(seconds=s))


@dataclass(frozen=True)
class Piece:
    name: int
    queue: str
    project: str
    devices: int = 0


pieces = st.lists(
    st.builds(Piece, st.integers(), queues, st.sampled_from(["a", "b"]), st.integers(0, 4)), max_size=30, unique=True
)
limits = st.builds(Limit, st.none() | st.integers(1, 5), st.none() | st.integers(1, 8), st.booleans())


@given(queues, queues, instants, priorities, priorities)
def test_nothing_starves(waiting: Queue, fresh: Queue, at: datetime, low: int, high: int) -> None:
    # However important the newcomer, work that waited long enough goes first.
    head_starts = HEAD_START_SECONDS[waiting] - HEAD_START_SECONDS[fresh]
    bound = timedelta(seconds=head_starts + (high - low) * PRIORITY_SECONDS + 1)
    assert sort_at(waiting, at, low) < sort_at(fresh, at + bound, high)


@given(queues, instants, priorities, priorities)
def test_of_two_enqueued_together_the_higher_priority_goes_first(q: Queue, at: datetime, a: int, b: int) -> None:
    assert (sort_at(q, at, a) < sort_at(q, at, b)) == (a > b)


@given(instants, st.none() | instants, st.none() | instants)
def test_an_owner_follows_its_own_work_and_overtakes_nobody_who_waited_a_day(
    plain: datetime, first: datetime | None, own: datetime | None
) -> None:
    found = turn(plain, timedelta(seconds=60), first, own)
    assert found >= plain - JOIN_WINDOW
    if own is not None:
        assert found >= own + timedelta(seconds=60)
    elif first is not None and first <= plain and first >= plain - JOIN_WINDOW:
        assert found == first
    if own is None:
        assert found <= plain


@given(st.integers(1, 200), st.integers(1, 50), seconds)
def test_two_owners_take_turns_however_much_one_put_in_first(many: int, few: int, later: float) -> None:
    spacing = timedelta(seconds=SPACING_SECONDS[Queue.DEFAULT])
    waiting: list[tuple[datetime, int, str]] = []

    def put(owner: str, at: datetime) -> None:
        first = min((t for t, _, _ in waiting), default=None)
        own = max((t for t, _, o in waiting if o == owner), default=None)
        waiting.append((turn(sort_at(Queue.DEFAULT, at), spacing, first, own), len(waiting), owner))

    for _ in range(many):
        put("early", START)
    for _ in range(few):
        put("late", START + timedelta(seconds=min(later, JOIN_WINDOW.total_seconds() / 2)))
    order = [owner for _, _, owner in sorted(waiting)]
    # Until the late owner is done, each of its pieces waits for at most one of the other's.
    for place, owner in enumerate(order[: 2 * min(many, few)]):
        taken = order[: place + 1]
        assert taken.count("early") <= taken.count("late") + 1, (place, owner)


@given(
    pieces, st.dictionaries(queues, limits), st.dictionaries(st.sampled_from(["a", "b"]), limits), st.integers(0, 30)
)
def test_what_is_admitted_keeps_every_limit_and_its_order(
    candidates: list[Piece], by_queue: dict[str, Limit], by_project: dict[str, Limit], most: int
) -> None:
    chosen = admitted(candidates, Allowance(dict(by_queue), dict(by_project)), most)
    assert len(chosen) <= most
    assert chosen == [c for c in candidates if c in chosen]
    for name, limit in by_queue.items():
        running = [c for c in chosen if c.queue == name]
        assert not (limit.paused and running)
        assert limit.max_running is None or len(running) <= limit.max_running
    for name, limit in by_project.items():
        running = [c for c in chosen if c.project == name]
        assert not (limit.paused and running)
        assert limit.max_running is None or len(running) <= limit.max_running
        assert limit.max_devices is None or sum(c.devices for c in running) <= limit.max_devices
    if len(chosen) < most:
        # What was left out is still refused: nobody waits for nothing.
        after = Allowance(dict(by_queue), dict(by_project))
        for piece in chosen:
            after.count(piece)
        assert all(after.refuses(c) for c in candidates if c not in chosen)
