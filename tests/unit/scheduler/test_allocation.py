"""Which waiting work gets which devices, who makes room, and why work waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ltp.contracts.values import Device
from ltp.queue.policy import Allowance, Limit
from services.scheduler.allocation import RESERVES_AFTER, Decision, Holder, HostState, Waiting, Wants, explain, place

A, B, C, D = (UUID(int=i) for i in (1, 2, 3, 4))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30


def host(name: str, gpus: int, *holders: Holder, memory: int = 80 * GIB, **more: Any) -> HostState:
    devices = [Device(index=i, kind="gpu", model="H200", memory_bytes=memory) for i in range(gpus)]
    cpu = Device(index=0, kind="cpu", model="x", memory_bytes=memory)
    return HostState(name, [*devices, cpu], holders, **more)


def holding(work: UUID, *indexes: int, **more: Any) -> Holder:
    return Holder(work, None, "gpu", frozenset(indexes), **more)


def waits(work: UUID, count: int, kind: Any = "gpu", since: datetime = NOW, **more: Any) -> Waiting:
    return Waiting(work, Wants(count, kind, **more), since)


def placed(decision: Decision) -> list[tuple[UUID, str, list[int]]]:
    return [(work, p.host_id, p.device_indexes) for work, p in decision.placed]


def test_work_is_placed_in_turn_and_no_device_twice() -> None:
    assert placed(place([waits(A, 1), waits(B, 1), waits(C, 1)], [host("h", 2)], NOW)) == [(A, "h", [0]), (B, "h", [1])]


def test_leased_devices_are_left_alone() -> None:
    assert placed(place([waits(A, 1)], [host("h", 2, holding(D, 0))], NOW)) == [(A, "h", [1])]


def test_a_gang_gets_all_its_devices_on_one_host_or_none() -> None:
    assert placed(place([waits(A, 3)], [host("a", 2), host("b", 2)], NOW)) == []
    assert placed(place([waits(A, 2)], [host("a", 1), host("b", 2)], NOW)) == [(A, "b", [0, 1])]


def test_a_gang_over_two_hosts_takes_as_many_of_each_or_none() -> None:
    assert placed(place([waits(A, 4, hosts=2)], [host("a", 2), host("b", 1)], NOW)) == []
    ((_, placement),) = place([waits(A, 4, hosts=2)], [host("a", 2), host("b", 3), host("c", 1)], NOW).placed
    assert [(s.host_id, s.device_indexes) for s in placement.shares()] == [("a", [0, 1]), ("b", [0, 1])]


def test_small_work_goes_to_the_fullest_host_that_fits() -> None:
    assert placed(place([waits(A, 1)], [host("big", 8), host("small", 1)], NOW)) == [(A, "small", [0])]


def test_only_devices_with_enough_memory_count_and_the_smallest_of_them_is_taken() -> None:
    mixed = host("h", 3)
    sizes = [24 * GIB, 141 * GIB, 80 * GIB]
    devices = [replace_memory(d, sizes[d.index]) if d.kind == "gpu" else d for d in mixed.devices]
    mixed = replace(mixed, devices=devices)
    assert placed(place([waits(A, 1, memory_bytes=40 * GIB)], [mixed], NOW)) == [(A, "h", [2])]
    (reason,) = explain(waits(A, 1, memory_bytes=200 * GIB), [waits(A, 1, memory_bytes=200 * GIB)], [mixed], NOW)
    assert (reason.cause, "200.0 GiB" in reason.message) == ("too_small", True)


def replace_memory(device: Device, size: int) -> Device:
    return device.model_copy(update={"memory_bytes": size})


def test_a_host_that_is_silent_cordoned_or_unlabelled_gets_nothing_and_says_why() -> None:
    hosts = [
        host("s", 1, state="silent"),
        host("c", 1, state="cordoned"),
        host("l", 1),
        host("few", 0, labels={"zone": "x"}),
    ]
    work = waits(A, 1, labels={"zone": "x"})
    assert placed(place([work], hosts, NOW)) == []
    reasons = {r.host_id: r.cause for r in explain(work, [work], hosts, NOW)}
    assert reasons == {"s": "silent", "c": "cordoned", "l": "labels", "few": "too_few_devices"}


def test_a_host_on_which_work_failed_is_taken_again_only_where_there_is_no_other() -> None:
    work = waits(A, 1, avoid=frozenset({"a"}))
    busy = host("b", 1, holding(D, 0))
    assert placed(place([work], [host("a", 1), busy], NOW)) == []
    assert [r.cause for r in explain(work, [work], [host("a", 1), busy], NOW)] == ["avoided", "busy"]
    assert placed(place([work], [host("a", 1)], NOW)) == [(A, "a", [0])]


def test_small_work_overtakes_large_work_only_until_that_has_waited_long() -> None:
    busy = host("h", 4, holding(D, 0))
    fresh, small = waits(A, 4), waits(B, 1)
    assert placed(place([fresh, small], [busy], NOW)) == [(B, "h", [1])]
    old = waits(A, 4, since=NOW - RESERVES_AFTER - timedelta(seconds=1))
    decision = place([old, small], [busy], NOW)
    assert (placed(decision), decision.reserved) == ([], {"h": A})
    assert [r.cause for r in explain(small, [old, small], [busy], NOW)] == ["reserved", "turn"]


def test_more_important_work_asks_the_least_important_preemptible_holder_to_leave_and_keeps_the_room() -> None:
    held = host(
        "h",
        3,
        holding(B, 0, priority=1, preemptible=True),
        holding(C, 1, priority=0, preemptible=True),
        holding(D, 2, priority=0),
    )
    decision = place([waits(A, 1, priority=5), waits(UUID(int=9), 1)], [held], NOW)
    assert (placed(decision), decision.preempted, decision.reserved) == ([], {C: A}, {"h": A})


def test_what_a_quota_holds_back_is_passed_over_and_reserves_nothing() -> None:
    limits = Allowance(projects={"p": Limit(max_devices=1)}, devices_of_project=Counter(p=1))
    old = NOW - RESERVES_AFTER * 2
    mine = Waiting(A, Wants(1, "gpu"), old, project="p")
    decision = place([mine, waits(B, 1)], [host("h", 1)], NOW, limits)
    assert (placed(decision), decision.reserved) == ([(B, "h", [0])], {})


def test_nobody_is_asked_twice_or_in_vain() -> None:
    leaving = holding(C, 1, priority=0, preemptible=True, leaving=True)
    assert place([waits(A, 1, priority=5)], [host("h", 2, holding(D, 0), leaving)], NOW).preempted == {}
    # Even both that may go free too few.
    few = host("h", 3, holding(B, 0, preemptible=True), holding(D, 1, 2))
    assert place([waits(A, 2, priority=5)], [few], NOW).preempted == {}
    # The same priority takes nothing from its peer.
    assert place([waits(A, 1)], [host("h", 1, holding(B, 0, preemptible=True))], NOW).preempted == {}


def test_it_says_who_holds_the_devices_and_what_would_free_them() -> None:
    job = UUID(int=77)
    held = host("h", 1, Holder(D, job, "gpu", frozenset({0}), 3))
    (reason,) = explain(waits(A, 1), [waits(A, 1)], [held], NOW)
    assert reason.cause == "busy"
    assert f"job {job} (1 devices, priority 3, not preemptible)" in reason.message
    assert str(job) in reason.remedy
    assert explain(waits(A, 1), [waits(A, 1)], [], NOW)[0].cause == "no_host"


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[list[Waiting], list[HostState]]:
    hosts: list[HostState] = []
    for number in range(draw(st.integers(1, 4))):
        gpus = draw(st.integers(0, 6))
        cut = draw(st.integers(0, gpus))
        holders = [
            holding(
                UUID(int=1000 + number * 10 + i), i, priority=draw(st.integers(-2, 2)), preemptible=draw(st.booleans())
            )
            for i in range(cut)
        ]
        hosts.append(host(f"h{number}", gpus, *holders))
    waiting = [
        waits(
            UUID(int=i + 1),
            (per := draw(st.integers(1, 3))) * (spread := draw(st.integers(1, 2))),
            hosts=spread,
            priority=draw(st.integers(-2, 2)),
            since=NOW - timedelta(seconds=draw(st.integers(0, 600))),
        )
        for i in range(draw(st.integers(0, 8)))
    ]
    assert all(w.wants.per_host <= 3 for w in waiting) or per
    return waiting, hosts


@given(_clusters())
def test_whatever_waits_no_device_is_given_twice_and_gangs_are_whole(
    case: tuple[list[Waiting], list[HostState]],
) -> None:
    waiting, hosts = case
    decision = place(waiting, hosts, NOW)
    wants = {w.work_id: w.wants for w in waiting}
    given_away: set[tuple[str, int]] = {(h.host_id, i) for h in hosts for holder in h.holders for i in holder.indexes}
    for work, placement in decision.placed:
        shares = placement.shares()
        assert len(shares) == wants[work].hosts == len({s.host_id for s in shares})
        for share in shares:
            assert len(share.device_indexes) == wants[work].per_host
            for index in share.device_indexes:
                assert (share.host_id, index) not in given_away
                given_away.add((share.host_id, index))
    holders = {holder.work_id: holder for h in hosts for holder in h.holders}
    for victim, needy in decision.preempted.items():
        assert holders[victim].preemptible
        assert holders[victim].priority < wants[needy].priority
    # Work that fits an idle cluster's host and comes first is placed.
    assert placed(decision) == placed(place(waiting, hosts, NOW))
