"""The life of a job and of an attempt as two tables; `docs/states.md` is printed from them and every service obeys them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar


class JobState(StrEnum):
    """Where a user's request stands. "Pausing" and "cancelling" are request flags beside the state, not states."""

    SUBMITTED = "submitted"
    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """Where one try on leased devices stands."""

    LEASED = "leased"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"


class OperationState(StrEnum):
    """Where an operation on models stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True)
class Lifecycle(Generic[S]):
    """States and the transitions allowed between them."""

    name: str
    initial: S
    transitions: Mapping[S, frozenset[S]]

    def allows(self, current: S, target: S) -> bool:
        """Whether a noun in `current` may become `target`."""
        return target in self.transitions[current]

    def is_over(self, state: S) -> bool:
        """Whether nothing can follow `state`."""
        return not self.transitions[state]

    def sources(self, target: S) -> frozenset[S]:
        """The states from which `target` may be reached: the guard of a state-guarded UPDATE."""
        return frozenset(state for state, targets in self.transitions.items() if target in targets)


_J = JobState
JOB = Lifecycle(
    name="Job",
    initial=_J.SUBMITTED,
    transitions={
        _J.SUBMITTED: frozenset({_J.PLANNED, _J.FAILED, _J.CANCELLED}),
        # Paused before it was ever queued: created to be started later, or paused while it was planned.
        _J.PLANNED: frozenset({_J.QUEUED, _J.PAUSED, _J.FAILED, _J.CANCELLED}),
        _J.QUEUED: frozenset({_J.RUNNING, _J.PAUSED, _J.FAILED, _J.CANCELLED}),
        # Back to queued: the attempt was lost or preempted and the job waits for its next one.
        _J.RUNNING: frozenset({_J.QUEUED, _J.PAUSED, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED}),
        _J.PAUSED: frozenset({_J.QUEUED, _J.FAILED, _J.CANCELLED}),
        _J.SUCCEEDED: frozenset(),
        _J.FAILED: frozenset(),
        _J.CANCELLED: frozenset(),
    },
)

_A = AttemptState
ATTEMPT = Lifecycle(
    name="Attempt",
    initial=_A.LEASED,
    transitions={
        _A.LEASED: frozenset({_A.STARTING, _A.STOPPED, _A.FAILED, _A.LOST}),
        _A.STARTING: frozenset({_A.RUNNING, _A.STOPPED, _A.SUCCEEDED, _A.FAILED, _A.LOST}),
        _A.RUNNING: frozenset({_A.STOPPED, _A.SUCCEEDED, _A.FAILED, _A.LOST}),
        _A.STOPPED: frozenset(),
        _A.SUCCEEDED: frozenset(),
        _A.FAILED: frozenset(),
        _A.LOST: frozenset(),
    },
)


_O = OperationState
OPERATION = Lifecycle(
    name="Operation",
    initial=_O.QUEUED,
    transitions={
        _O.QUEUED: frozenset({_O.RUNNING, _O.PAUSED, _O.FAILED, _O.CANCELLED}),
        # Running again after a crash is the same state.
        _O.RUNNING: frozenset({_O.RUNNING, _O.PAUSED, _O.SUCCEEDED, _O.FAILED, _O.CANCELLED}),
        _O.PAUSED: frozenset({_O.QUEUED, _O.CANCELLED}),
        _O.SUCCEEDED: frozenset(),
        _O.FAILED: frozenset(),
        _O.CANCELLED: frozenset(),
    },
)


def render(lifecycle: Lifecycle[S]) -> str:
    """The lifecycle as a Markdown section with a Mermaid state diagram."""
    lines = [f"## {lifecycle.name}", "", "```mermaid", "stateDiagram-v2", f"    [*] --> {lifecycle.initial}"]
    for state, targets in lifecycle.transitions.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets)] or [f"    {state} --> [*]"]
    return "\n".join([*lines, "```", ""])
