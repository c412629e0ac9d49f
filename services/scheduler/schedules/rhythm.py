"""When a schedule ticks: instants of a cron expression in its time zone, or of an interval. Pure.

Cron is evaluated by `cronsim`, which follows Debian's cron at changes of the clock: a time that does not exist comes at the first
moment after the gap, one that exists twice comes once, and expressions of every minute or hour go on by the real clock.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ltp.contracts.schedule import ScheduleSpec
from ltp.core.errors import ErrorCode, LtpError

# How far back missed instants are looked for, until enough are found.
_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=400))
_HINT = "Five fields: minute hour day month weekday, as in '30 2 * * MON' (docs/pipelines.md)."


def instants(spec: ScheduleSpec, anchor: datetime, after: datetime) -> Iterator[datetime]:
    """The instants after `after`, in UTC. Intervals count from `anchor`. Raises INVALID_SCHEDULE for what never ticks."""
    if spec.every_seconds is not None:
        yield from _multiples(spec.every_seconds, anchor, after)
        return
    zone, last, found = _zone(spec.timezone), after, False
    try:
        # Whole seconds only, so that an instant just passed is not given again.
        for local in CronSim(spec.cron or "", after.astimezone(zone)):
            instant = local.astimezone(UTC)
            # Two times inside a gap of the clock are the same moment.
            if instant > last:
                last, found = instant, True
                yield instant
    # cronsim names some wrong expressions by an assertion or by what int() says; a date too far is an OverflowError.
    except (CronSimError, AssertionError, ValueError, TypeError, OverflowError) as error:
        if _is_valid_in_any_month(spec.cron or "", after):
            raise _never(spec) from error
        raise _invalid(f"cron {spec.cron!r} is not valid: {error or 'its parts contradict each other'}.") from error
    if not found:
        raise _never(spec)


def first_after(spec: ScheduleSpec, anchor: datetime, after: datetime) -> datetime:
    """The next instant. Raises INVALID_SCHEDULE when there is none."""
    for instant in instants(spec, anchor, after):
        return instant
    raise _never(spec)


def newest_due(spec: ScheduleSpec, anchor: datetime, first: datetime, now: datetime, limit: int) -> list[datetime]:
    """The newest `limit` instants from `first` (an instant itself) up to `now`, oldest first."""
    if first > now:
        return []
    if spec.every_seconds is not None:
        skipped = math.floor((now - first).total_seconds() / spec.every_seconds) + 1 - limit
        first += timedelta(seconds=max(0, skipped) * spec.every_seconds)
    for window in (*_WINDOWS, None):
        start = first if window is None else max(first, now - window)
        found: deque[datetime] = deque([first] if start == first else [], maxlen=limit)
        for instant in instants(spec, anchor, start):
            if instant > now:
                break
            found.append(instant)
        if len(found) == limit or start == first:
            return list(found)
    raise AssertionError("the last window begins at the first instant")


def jitter(spec: ScheduleSpec, schedule_id: UUID, due_at: datetime) -> timedelta:
    """How much later than due this tick fires: spread evenly, and the same for every scheduler that computes it."""
    digest = hashlib.sha256(f"{schedule_id}{due_at.timestamp()}".encode()).digest()
    return timedelta(seconds=spec.jitter_seconds * int.from_bytes(digest[:8]) / 2**64)


def _multiples(every: float, anchor: datetime, after: datetime) -> Iterator[datetime]:
    count = max(1, math.floor((after - anchor).total_seconds() / every) + 1)
    while True:
        instant = anchor + timedelta(seconds=count * every)
        if instant > after:  # Rounding may give `after` itself.
            yield instant
        count += 1


def _is_valid_in_any_month(cron: str, after: datetime) -> bool:
    """Whether the months alone make it impossible, as in the 30th of February: cronsim calls that a bad day."""
    parts = cron.split()
    try:
        CronSim(" ".join([*parts[:-2], "*", parts[-1]]), after)
        CronSim(" ".join(["*"] * (len(parts) - 2) + [parts[-2], "*"]), after)
    except (CronSimError, AssertionError, ValueError, TypeError, IndexError):
        return False
    return True


def _never(spec: ScheduleSpec) -> LtpError:
    message = f"cron {spec.cron!r} never fires: no such moment comes within fifty years."
    return LtpError(ErrorCode.INVALID_SCHEDULE, message, "Look at its day and its month: do they ever meet?")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        hint = "Use a name of the IANA database, as Europe/Berlin or UTC."
        raise LtpError(ErrorCode.INVALID_SCHEDULE, f"There is no time zone {name!r}.", hint) from error


def _invalid(message: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_SCHEDULE, message, _HINT)
