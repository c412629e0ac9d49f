"""The checker: reads what a storm left in Postgres, on the bus, on the disk and in the witnesses' log, and says what is wrong.

It shares no code with the services but the names of tables; each finding is a sentence.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import asyncpg

from ltp.contracts import SERVICES

FINAL = ("succeeded", "failed", "cancelled")
_ENDS = tuple(f"ltp.job.v1.{end}" for end in FINAL)


async def findings(database_url: str, accepted: set[str], witnesses: Path, harmed: set[str]) -> list[str]:
    """Every promise that was broken; empty when all held. `harmed` are the run directories whose training we killed."""
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg", "postgresql"))
    try:
        deeds = [json.loads(line) for line in witnesses.read_text().splitlines()]
        return [
            *await _each_job_ended_once(connection, accepted),
            *await _each_event_arrived(connection),
            *await _no_device_leased_twice(connection),
            *await _nothing_restarted_without_need(connection, harmed),
            *await _each_step_once(connection, deeds),
            *_no_device_trained_by_two(deeds),
            *_no_late_writer(deeds),
        ]
    finally:
        await connection.close()


async def _each_job_ended_once(connection: Any, accepted: set[str]) -> list[str]:
    rows = await connection.fetch("SELECT job_id::text, state FROM scheduler.jobs")
    states = {row["job_id"]: row["state"] for row in rows}
    wrong = [f"accepted job {job} is unknown to the scheduler" for job in accepted - states.keys()]
    wrong += [f"job {job} is {state}" for job, state in states.items() if state not in FINAL]
    said = await connection.fetch(
        "SELECT convert_from(payload, 'UTF8')::jsonb ->> 'job_id' AS job, subject FROM scheduler.outbox WHERE subject = ANY($1)",
        list(_ENDS),
    )
    ends: dict[str, list[str]] = defaultdict(list)
    for row in said:
        ends[row["job"]].append(row["subject"].rpartition(".")[2])
    wrong += [f"job {job} ended {len(told)} times: {told}" for job, told in ends.items() if len(told) != 1]
    wrong += [
        f"job {job} is {states[job]}, but {told} was said" for job, told in ends.items() if states[job] not in told
    ]
    seen = await connection.fetch("SELECT job_id::text, state FROM gateway.jobs")
    wrong += [
        f"the gateway shows job {row['job_id']} as {row['state']}, the scheduler has {states.get(row['job_id'])}"
        for row in seen
        if row["state"] != states.get(row["job_id"])
    ]
    return wrong


async def _each_event_arrived(connection: Any) -> list[str]:
    """Everything that was committed to an outbox was heard by the gateway, which hears all."""
    heard = {str(r["event_id"]) for r in await connection.fetch("SELECT event_id FROM gateway.events")}
    wrong: list[str] = []
    for service in SERVICES:
        rows = await connection.fetch(f"SELECT message_id, subject, published_at FROM {service}.outbox WHERE keep")
        wrong += [f"{service} never published {r['subject']}" for r in rows if r["published_at"] is None]
        wrong += [f"{r['subject']} of {service} was never heard" for r in rows if r["message_id"] not in heard]
    return wrong


async def _no_device_leased_twice(connection: Any) -> list[str]:
    rows = await connection.fetch(
        "SELECT d.host_id, d.kind, d.index, l.granted_at, d.released_at, l.work_id::text "
        "FROM scheduler.leased_devices d JOIN scheduler.leases l USING (lease_id) ORDER BY l.fence"
    )
    wrong = [f"lease of {r['work_id']} was never released" for r in rows if r["released_at"] is None]
    fences = await connection.fetch("SELECT fence, count(*) FROM scheduler.leases GROUP BY 1 HAVING count(*) > 1")
    return wrong + [f"fence {r['fence']} was given twice" for r in fences]


async def _nothing_restarted_without_need(connection: Any, harmed: set[str]) -> list[str]:
    """A second attempt is only for training that we killed ourselves, or that was asked to stop."""
    rows = await connection.fetch("SELECT run_dir, state, job_id::text FROM runner.attempts")
    return [
        f"attempt {r['run_dir'][-50:]} of job {r['job_id']} was {r['state']} although nobody harmed it"
        for r in rows
        if r["state"] in {"lost", "failed"} and r["run_dir"] not in harmed
    ]


async def _each_step_once(connection: Any, deeds: list[Any]) -> list[str]:
    """What was trained is what is known: no line of metrics lost or doubled, whoever died while reading."""
    rows = await connection.fetch(
        "SELECT a.run_id::text AS run, s.attempt, s.step, count(*) AS n FROM gateway.steps s "
        "JOIN runner.attempts a USING (attempt_id) GROUP BY 1, 2, 3"
    )
    known = {(r["run"], r["attempt"], r["step"]): r["n"] for r in rows}
    trained = Counter((d["run"], d["attempt"], d["step"]) for d in deeds)
    wrong = [f"step {key} was trained {n} times" for key, n in trained.items() if n > 1]
    wrong += [f"step {key} is known {n} times" for key, n in known.items() if n > 1]
    wrong += [f"step {key} is known but was never trained" for key in known.keys() - trained.keys()]
    # The last steps of an attempt that was killed may never have been logged.
    ended = defaultdict(int)
    for run, attempt, step in known:
        ended[run, attempt] = max(ended[run, attempt], step)
    missing = [key for key in trained.keys() - known.keys() if key[2] < ended[key[:2]]]
    return wrong + [f"step {key} was trained and is not known" for key in missing]


def _no_device_trained_by_two(deeds: list[Any]) -> list[str]:
    """By the witnesses, not by our books: the spans in which processes trained on a device do not overlap."""
    spans: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for deed in deeds:
        spans[deed["device"]][deed["pid"]].append(deed["at"])
    wrong: list[str] = []
    for device, processes in spans.items():
        ordered = sorted((min(times), max(times), pid) for pid, times in processes.items())
        for (_, end, one), (start, _, other) in itertools.pairwise(ordered):
            if start < end:
                wrong.append(f"device {device} was used by {one} and {other} at once, for {end - start:.2f} s")
    return wrong


def _no_late_writer(deeds: list[Any]) -> list[str]:
    """Once an attempt has begun, no earlier one of the same run trains on."""
    runs: dict[str, list[Any]] = defaultdict(list)
    for deed in deeds:
        runs[deed["run"]].append(deed)
    wrong: list[str] = []
    for run, done in runs.items():
        newest = 0
        for deed in sorted(done, key=lambda d: d["at"]):
            if deed["attempt"] < newest:
                wrong.append(f"run {run}: attempt {deed['attempt']} trained after attempt {newest} had begun")
            newest = max(newest, deed["attempt"])
    return wrong
