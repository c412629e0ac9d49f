"""What happens to the instants that are due: fired, left to wait, left out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ltp.contracts.schedule import ScheduleSpec

# Later than this an instant was missed, and catching up is a question of policy.
GRACE = timedelta(seconds=30)
# Of instants that were missed, so many are noted.
_NOTED = 10

Fate = Literal["running", "waiting", "skipped", "missed"]


@dataclass(frozen=True)
class Planned:
    """A tick and what becomes of it."""

    due_at: datetime
    fate: Fate
    reason: str | None = None


def plan(spec: ScheduleSpec, due: Sequence[datetime], now: datetime, *, running: bool, waiting: bool) -> list[Planned]:
    """Decide over instants that are due, oldest first. `running` and `waiting` say what earlier ticks still do."""
    chosen = set(_chosen(spec, due, now))
    missed = [Planned(d, "missed", f"{(now - d).total_seconds():.0f} s late") for d in due if d not in chosen]
    fired: list[Planned] = []
    for instant in due:
        if instant in chosen:
            planned = overlapped(spec, instant, running=running, waiting=waiting)
            running |= planned.fate == "running"
            waiting |= planned.fate == "waiting"
            fired.append(planned)
    return missed[-_NOTED:] + fired


def overlapped(spec: ScheduleSpec, instant: datetime, *, running: bool, waiting: bool) -> Planned:
    """What becomes of a tick while an earlier one is still at work."""
    if spec.overlap == "allow" or not (running or waiting):
        return Planned(instant, "running")
    if spec.overlap == "queue-one" and not waiting:
        return Planned(instant, "waiting")
    reason = "another tick waits already" if spec.overlap == "queue-one" else "the tick before is still at work"
    return Planned(instant, "skipped", reason)


def _chosen(spec: ScheduleSpec, due: Sequence[datetime], now: datetime) -> list[datetime]:
    late = GRACE + timedelta(seconds=spec.jitter_seconds)
    fresh = [d for d in due if now - d <= late]
    stale = [d for d in due if now - d > late]
    if spec.catch_up == "all":
        return stale[-spec.catch_up_limit :] + fresh
    if spec.catch_up == "last" and not fresh:
        return stale[-1:]
    return fresh
