"""Where unfinished jobs are: their own steps and alarms, and nobody else's."""

from __future__ import annotations

import json
import uuid

from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import sql
from tests.service.gateway.test_projects import Tenants, recipe


def line(door: Door, job_id: str, attempt: int, step: int, seconds: int) -> None:
    sql(
        door,
        "INSERT INTO gateway.steps (job_id, attempt_id, line, attempt, step, at, metrics)"
        " VALUES ($1, $2, 0, $3, $4, to_timestamp($5), '{}')",
        uuid.UUID(job_id), uuid.uuid4(), attempt, step, seconds,
    )  # fmt: skip


def alarm(door: Door, job_id: str, subject: str, alarm_id: str) -> None:
    data = json.dumps({"alarm_id": alarm_id, "rule": "loss-spike", "severity": "warning", "message": "It rose."})
    sql(
        door,
        "INSERT INTO gateway.events (event_id, subject, job_id, at, data, project) VALUES ($1, $2, $3, now(), $4, 'near')",
        uuid.uuid4(), subject, uuid.UUID(job_id), data,
    )  # fmt: skip


def test_each_job_stands_where_its_own_newest_steps_are(door: Door) -> None:
    tenants = Tenants(door, "near", "far")
    answer = tenants.blue.post("/jobs", json=recipe("shared", "fars"))
    assert answer.status_code == 202, answer.text
    ours, others = tenants.reds_job, answer.json()["job_id"]
    assert tenants.red.get("/standings").json() == [], "a job that waits stands nowhere yet"
    for job_id in (ours, others):
        sql(door, "UPDATE gateway.jobs SET state = 'running' WHERE job_id = $1", uuid.UUID(job_id))
    recipe_steps = tenants.red.get(f"/jobs/{ours}").json()["recipe"]["training"]["steps"]
    assert recipe_steps == 2
    line(door, others, 1, 90, 90)
    line(door, ours, 1, 0, 100)
    line(door, ours, 1, 1, 107)
    alarm(door, ours, "ltp.alarm.v1.raised", "one")
    alarm(door, ours, "ltp.alarm.v1.raised", "two")
    alarm(door, ours, "ltp.alarm.v1.cleared", "one")
    (mine,) = tenants.red.get("/standings").json()
    assert mine["job_id"] == ours
    assert (mine["step"], mine["steps"], mine["eta_seconds"]) == (1, 2, 7)
    assert [one["rule"] for one in mine["alarms"]] == ["loss-spike"]
    sql(door, "UPDATE gateway.jobs SET state = 'paused' WHERE job_id = $1", uuid.UUID(ours))
    assert tenants.red.get("/standings").json()[0]["eta_seconds"] is None
    assert {one["job_id"] for one in door.root.get("/standings").json()} >= {ours, others}
