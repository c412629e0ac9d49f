"""Which waiting work gets which devices."""

from __future__ import annotations

from uuid import UUID

from ltp.contracts.values import Device
from ltp.core.lifecycle import JobState
from services.scheduler.policy import HostState, Waiting, after_loss, after_stop, place

A, B, C = (UUID(int=i) for i in (1, 2, 3))


def host(name: str, gpus: int, taken: frozenset[int] = frozenset()) -> HostState:
    devices = [Device(index=i, kind="gpu", model="H200", memory_bytes=1) for i in range(gpus)]
    cpu = Device(index=0, kind="cpu", model="x", memory_bytes=1)
    return HostState(name, [*devices, cpu], {"gpu": taken, "cpu": frozenset()})


def test_work_is_placed_in_turn_and_no_device_twice() -> None:
    placed = place([Waiting(A, 1, "gpu"), Waiting(B, 1, "gpu"), Waiting(C, 1, "gpu")], [host("h", 2)])
    assert [(work, p.device_indexes) for work, p in placed] == [(A, [0]), (B, [1])]


def test_leased_devices_are_left_alone() -> None:
    ((_, placement),) = place([Waiting(A, 1, "gpu")], [host("h", 2, taken=frozenset({0}))])
    assert placement.device_indexes == [1]


def test_a_gang_gets_all_its_devices_on_one_host_or_none() -> None:
    assert place([Waiting(A, 3, "gpu")], [host("a", 2), host("b", 2)]) == []
    ((_, placement),) = place([Waiting(A, 2, "gpu")], [host("a", 1), host("b", 2)])
    assert (placement.host_id, placement.device_indexes) == ("b", [0, 1])


def test_small_work_goes_to_the_fullest_host_that_fits() -> None:
    ((_, placement),) = place([Waiting(A, 1, "gpu")], [host("big", 8), host("small", 1)])
    assert placement.host_id == "small"


def test_small_work_passes_large_work_that_does_not_fit() -> None:
    placed = place([Waiting(A, 4, "gpu"), Waiting(B, 1, "cpu")], [host("h", 2)])
    assert [work for work, _ in placed] == [B]


def test_a_lost_attempt_is_tried_again_until_the_last() -> None:
    assert after_loss(1, 3, cancel_requested=False) is JobState.QUEUED
    assert after_loss(3, 3, cancel_requested=False) is JobState.FAILED
    assert after_loss(1, 3, cancel_requested=True) is JobState.CANCELLED
    assert after_stop(cancel_requested=True) is JobState.CANCELLED
