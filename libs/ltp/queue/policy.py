"""Which work comes first, what limits let through, and when failed work is tried again: pure arithmetic of values passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

WorkState = Literal["queued", "running", "done", "failed", "cancelled"]

MAX_FAILURES = 5
# How often a worker may die with a piece of work in hand before the work is taken for the cause.
MAX_DEATHS = 5
# From this many deaths on, work is done alone, so that it takes no innocent work with it.
SUSPECT_DEATHS = 2
_RETRY_BASE_SECONDS = 2.0
_RETRY_CEILING_SECONDS = 300.0


class Queue(StrEnum):
    """The five queues."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    DEFAULT = "default"
    PREPROCESSING = "preprocessing"
    MAINTENANCE = "maintenance"


# Seconds by which a queue's work may be overtaken by training work enqueued later. Work is taken in the order of
# enqueue time + head start, so nothing starves: a maintenance job older than 300 s goes before every fresh training job.
HEAD_START_SECONDS = {
    Queue.TRAINING: 0.0,
    Queue.EVALUATION: 15.0,
    Queue.DEFAULT: 30.0,
    Queue.PREPROCESSING: 120.0,
    Queue.MAINTENANCE: 300.0,
}

# Seconds between the turns of one owner's work in one queue: about what a piece of it takes.
SPACING_SECONDS = {
    Queue.TRAINING: 600.0,
    Queue.EVALUATION: 60.0,
    Queue.DEFAULT: 10.0,
    Queue.PREPROCESSING: 10.0,
    Queue.MAINTENANCE: 10.0,
}

# A point of priority is a head start too, so that low priority waits but never starves.
PRIORITY_SECONDS = 3600.0
PRIORITIES = range(-100, 101)

# An owner without waiting work joins beside the first of the queue, but overtakes nobody who has waited longer than this.
JOIN_WINDOW = timedelta(days=1)


def sort_at(queue: Queue, run_at: datetime, priority: int = 0) -> datetime:
    """The instant that orders work over all queues, before owners are considered."""
    return run_at + timedelta(seconds=offset_seconds(queue, priority))


def offset_seconds(queue: Queue, priority: int) -> float:
    """Seconds from the instant at which work may run to its turn."""
    return HEAD_START_SECONDS[queue] - priority * PRIORITY_SECONDS


def turn(plain: datetime, spacing: timedelta, first: datetime | None, own_last: datetime | None) -> datetime:
    """The turn of new work: fair share between owners, as in self-clocked fair queueing (Golestani 1994).

    `plain` is what `sort_at` gives; `first` the earliest turn that waits in the same queue and priority, `own_last` the
    latest turn of the owner's open work there. An owner's work follows its own at a distance of `spacing`; an owner
    who has none waits beside the first, however much others have put in before. The statement in `ltp.queue.statements`
    computes the same; a test compares the two.
    """
    joined = plain if first is None else max(min(plain, first), plain - JOIN_WINDOW)
    return joined if own_last is None else max(joined, own_last + spacing)


class Placeable(Protocol):
    """What the limits look at. `devices` is 0 for work that needs none."""

    @property
    def queue(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def devices(self) -> int: ...


P = TypeVar("P", bound=Placeable)


@dataclass(frozen=True)
class Limit:
    """What a queue or a project may have running at a time; None means any number."""

    max_running: int | None = None
    max_devices: int | None = None
    paused: bool = False


@dataclass
class Allowance:
    """How much more may start: limits by queue and quotas by project, less what runs. `take` counts as it admits."""

    queues: dict[str, Limit] = field(default_factory=dict[str, Limit])
    projects: dict[str, Limit] = field(default_factory=dict[str, Limit])
    running_in_queue: Counter[str] = field(default_factory=Counter[str])
    running_of_project: Counter[str] = field(default_factory=Counter[str])
    devices_of_project: Counter[str] = field(default_factory=Counter[str])

    def refuses(self, work: Placeable) -> str | None:
        """Why this work may not start now, in words; None when it may."""
        queue, project = self.queues.get(work.queue, Limit()), self.projects.get(work.project, Limit())
        running, mine = self.running_in_queue[work.queue], self.running_of_project[work.project]
        devices = self.devices_of_project[work.project]
        if queue.paused:
            return f"queue {work.queue} is paused"
        if queue.max_running is not None and running >= queue.max_running:
            return f"queue {work.queue} has {running} running, its limit is {queue.max_running}"
        if project.paused:
            return f"project {work.project} is paused"
        if project.max_running is not None and mine >= project.max_running:
            return f"project {work.project} has {mine} running, its quota is {project.max_running}"
        if project.max_devices is not None and work.devices and devices + work.devices > project.max_devices:
            quota = f"its quota is {project.max_devices}"
            return f"project {work.project} holds {devices} devices and this wants {work.devices}, {quota}"
        return None

    def count(self, work: Placeable) -> None:
        """Note that this work runs."""
        self.running_in_queue[work.queue] += 1
        self.running_of_project[work.project] += 1
        self.devices_of_project[work.project] += work.devices

    def take(self, work: Placeable) -> bool:
        """Admit this work if nothing refuses it."""
        if self.refuses(work) is not None:
            return False
        self.count(work)
        return True


def admitted(candidates: Iterable[P], allowance: Allowance, most: int) -> list[P]:
    """Of candidates in their turn, up to `most` that may start now; what a limit holds back blocks nobody behind it."""
    chosen: list[P] = []
    for candidate in candidates:
        if len(chosen) >= most:
            break
        if allowance.take(candidate):
            chosen.append(candidate)
    return chosen


def retry_after(failures: int, jitter: float) -> timedelta | None:
    """How long to wait after the `failures`-th failure (from 1); None when it was the last. `jitter` lies in 0..1."""
    if failures >= MAX_FAILURES:
        return None
    seconds = min(_RETRY_CEILING_SECONDS, _RETRY_BASE_SECONDS * 2 ** (failures - 1))
    return timedelta(seconds=seconds * (0.5 + 0.5 * jitter))
