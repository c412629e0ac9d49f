"""What the scheduler reads from its tables at a scrape: queues, jobs, hosts, leases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from nats.js import JetStreamContext
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.bus.streams import DEAD
from ltp.core.lifecycle import JobState
from ltp.queue.monitor import queue_counts
from ltp.queue.policy import Queue
from ltp.service.exposition import Reading
from ltp.telemetry.metrics import gauge, replace_all
from services.scheduler.hosts import hosts, leased_devices
from services.scheduler.store import jobs

QUEUED = gauge("ltp_queue_items", "Work in a queue by what it does.", "queue", "state")
QUEUE_AGE = gauge("ltp_queue_oldest_wait_seconds", "How long the oldest work that is due has waited.", "queue")
QUEUE_DEAD = gauge("ltp_queue_dead_items", "Work that failed for good and waits for a person.", "queue")
JOBS = gauge("ltp_jobs", "Jobs by state.", "state")
HOSTS = gauge("ltp_hosts", "Hosts by state.", "state")
DEVICES = gauge("ltp_devices", "Devices of hosts that are not removed.", "kind")
DEVICES_LEASED = gauge("ltp_devices_leased", "Devices that are leased.", "kind")
# From the sequence that numbers them: grows for ever, whatever is deleted.
LEASES_GRANTED = gauge("ltp_device_leases_granted", "Leases granted since the platform was set up.")
LEASES_HELD = gauge("ltp_device_leases_held", "Leases that are held.")

DEAD_LETTERS = gauge("ltp_dead_letters", "Messages set aside because their handler failed for good.")

_STATES = ("waiting", "delayed", "retrying", "running")


def readings(silent_after: timedelta) -> dict[str, Reading]:
    """The readings by name."""

    async def read_hosts(connection: AsyncConnection) -> None:
        await _read_hosts(connection, silent_after)

    return {"queues": _read_queues, "jobs": _read_jobs, "hosts": read_hosts, "leases": _read_leases}


async def read_dead_letters(js: JetStreamContext) -> None:
    """How many messages were set aside, whoever's handler failed."""
    DEAD_LETTERS.set((await js.stream_info(DEAD)).state.messages)


async def _read_queues(connection: AsyncConnection) -> None:
    counts = await queue_counts(connection)
    found = {queue: dict(counts.get(queue, {})) for queue in Queue}
    values = [({"queue": q, "state": s}, float(row.get(s) or 0)) for q, row in found.items() for s in _STATES]
    replace_all(QUEUED, values)
    replace_all(QUEUE_AGE, [({"queue": q}, float(row.get("oldest_wait_seconds") or 0)) for q, row in found.items()])
    replace_all(QUEUE_DEAD, [({"queue": q}, float(row.get("dead") or 0)) for q, row in found.items()])


async def _read_jobs(connection: AsyncConnection) -> None:
    rows = (await connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))).all()
    # All states: a curve that is missing looks like one that is broken.
    counts = dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}
    replace_all(JOBS, [({"state": state.value}, float(count)) for state, count in counts.items()])


async def _read_hosts(connection: AsyncConnection, silent_after: timedelta) -> None:
    silent = hosts.c.lost_at.is_not(None) | (hosts.c.seen_at < func.now() - silent_after) | hosts.c.seen_at.is_(None)
    query = select(hosts.c.devices, hosts.c.cordoned, silent.label("silent")).where(hosts.c.removed_at.is_(None))
    rows = (await connection.execute(query)).all()
    states, kinds = {"ready": 0, "cordoned": 0, "silent": 0}, dict[str, int]()
    for row in rows:
        states["silent" if row.silent else "cordoned" if row.cordoned else "ready"] += 1
        for device in row.devices:
            kinds[device["kind"]] = kinds.get(device["kind"], 0) + 1
    replace_all(HOSTS, [({"state": state}, count) for state, count in states.items()])
    replace_all(DEVICES, _by_kind(list(kinds.items())))


async def _read_leases(connection: AsyncConnection) -> None:
    d = leased_devices.c
    query = select(d.kind, func.count()).where(d.released_at.is_(None)).group_by(d.kind)
    leased = {"cpu": 0, "gpu": 0} | {row.kind: row[1] for row in (await connection.execute(query)).all()}
    replace_all(DEVICES_LEASED, _by_kind(list(leased.items())))
    held = "SELECT count(*) FROM scheduler.leases WHERE released_at IS NULL"
    LEASES_HELD.set(float(await connection.scalar(text(held)) or 0))
    granted = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM scheduler.lease_fence"
    LEASES_GRANTED.set(float(await connection.scalar(text(granted)) or 0))


def _by_kind(counts: Sequence[tuple[str, int]]) -> list[tuple[dict[str, str], float]]:
    return [({"kind": kind}, float(count)) for kind, count in counts]
