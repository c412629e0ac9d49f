"""Who gets in, who may what, and what is written of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import asyncpg
import httpx
import pytest

from ltp.security.identity import GRANTS, RANK
from services.gateway.scopes import needed
from tests.service.gateway.conftest import Door

ROLES = list(RANK)


def sql(door: Door, query: str, *values: Any) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(door.database_url.replace("+asyncpg", ""))
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    return asyncio.run(run())


def routes() -> list[tuple[str, str]]:
    """Every call of the API as its own document tells it, with parameters filled in."""
    from services.gateway.app import app

    filled = {"offset": "0", "seq": "1", "upload_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}
    found: list[tuple[str, str]] = []
    for path, methods in app.openapi()["paths"].items():
        if not path.startswith(("/api/v1", "/v1")):
            continue
        for method, call in methods.items():
            url = path
            for parameter in call.get("parameters", []):
                if parameter["in"] == "path":
                    name, schema = parameter["name"], parameter["schema"]
                    uuid = schema.get("format") == "uuid"
                    value = filled.get(name, "00000000-0000-0000-0000-000000000000" if uuid else "nobody")
                    url = url.replace("{" + name + "}", value)
            found.append((method.upper(), url))
    return found


def test_nobody_gets_in_without_a_good_token(door: Door) -> None:
    # Every route without a token: test_authorization.py.
    answer = httpx.get(f"{door.url}/api/v1/jobs")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    for header in ("Bearer nonsense", "Basic " + door.admin, "Bearer", "", f"Bearer {door.admin}x"):
        time.sleep(0.1)
        answer = httpx.get(f"{door.url}/api/v1/jobs", headers={"Authorization": header})
        assert answer.status_code == 401, header


@pytest.mark.parametrize("role", ROLES)
def test_each_role_passes_where_its_scopes_reach_and_nowhere_else(door: Door, role: str) -> None:
    client = door.by(door.token(role, None if role == "admin" else "roles"))
    for method, url in routes():
        scope = needed(method, url)
        allowed = scope is None or scope in GRANTS[role]  # type: ignore[index]
        if allowed and (url.endswith("/stream") or method != "GET" or "rotate" in url):
            continue  # Would change something, or not end.
        base = door.url
        answer = client.request(method, base + url)
        assert (answer.status_code == 403) == (not allowed), (role, method, url, scope, answer.text)


def test_what_the_table_does_not_name_is_closed(door: Door) -> None:
    assert needed("GET", "/api/v1/brand-new-noun") == "settings:write"
    assert all(
        needed(method, url) != "settings:write" or "settings" in url or "rotate" in url for method, url in routes()
    )


def test_a_token_is_kept_as_a_digest_and_shown_once(door: Door) -> None:
    token = door.token("user", "kept")
    row = dict(sql(door, "SELECT * FROM gateway.tokens WHERE prefix = $1", token[:12])[0])
    assert token not in json.dumps(row, default=str) and token.split("_", 2)[2] not in json.dumps(row, default=str)
    listed = door.root.get("/tokens").text
    assert token not in listed and token[:12] in listed


def test_revoked_and_expired_tokens_open_nothing(door: Door) -> None:
    token = door.token("user", "gone")
    assert door.by(token).get("/jobs").status_code == 200
    assert door.root.delete(f"/tokens/{token[:12]}").json()["revoked_at"]
    assert door.by(token).get("/jobs").status_code == 401
    short = door.token("user", "gone", expires_in_days=1e-6)
    time.sleep(0.15)
    assert door.by(short).get("/jobs").status_code == 401


def test_nobody_gives_away_more_than_they_have(door: Door) -> None:
    manager = door.by(door.token("manager", "red"))
    assert manager.post("/tokens", json={"name": "a", "role": "admin"}).status_code in {400, 403}
    assert manager.post("/tokens", json={"name": "a", "role": "user", "project": "blue"}).status_code == 403
    assert manager.post("/tokens", json={"name": "a", "scopes": ["hosts:write"]}).status_code in {201, 403}
    made = manager.post("/tokens", json={"name": "a", "role": "user"}).json()
    assert made["project"] == "red"
    assert all(token["project"] == "red" for token in manager.get("/tokens").json()["tokens"])
    assert door.by(made["token"]).post("/tokens", json={"name": "b"}).status_code == 403
    assert manager.post("/tokens", json={"name": "a", "scopes": ["all:of-it"]}).status_code == 400
    root = next(t for t in door.root.get("/tokens").json()["tokens"] if t["name"] == "first-admin")
    assert manager.delete(f"/tokens/{root['token_id']}").status_code == 404


def test_scopes_narrow_a_token(door: Door) -> None:
    reader = door.by(door.token("user", "narrow", scopes=["jobs:read"]))
    assert reader.get("/jobs").status_code == 200
    assert reader.post("/jobs", json={}).status_code == 403
    assert reader.get("/datasets").status_code == 403


def test_each_change_is_audited_with_its_actor_and_is_the_cause_of_what_followed(door: Door) -> None:
    token = door.token("manager", "audited")
    files = {"file": ("rows.jsonl", b'{"prompt": "1", "response": "2"}\n')}
    added = door.by(token).post(
        "/datasets", files=files, data={"name": "audited-rows"}, headers={"X-Request-Id": "req-7"}
    )
    assert added.status_code == 202, added.text
    assert added.headers["x-request-id"] == "req-7"
    deadline = time.monotonic() + 20
    while True:
        events = door.by(token).get("/events", params={"subject": "ltp.dataset.v1.uploaded"}).json()
        audit = door.by(token).get("/audit", params={"actor": "manager-audited"}).json()
        if events and audit:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert events[0]["actor"] == "manager-audited" and events[0]["project"] == "audited"
    assert events[0]["cause"] == audit[0]["event_id"]
    assert audit[0]["data"]["request_id"] == "req-7" and audit[0]["data"]["path"] == "/api/v1/datasets"
    service = door.by(door.token("service", "audited"))
    assert service.delete("/jobs/00000000-0000-0000-0000-000000000000/x").status_code in {403, 404}


def test_pushes_are_audited_once_for_a_token_and_a_run(door: Door) -> None:
    worker, other = (door.by(door.token("service", "pushers", scopes=scopes)) for scopes in (None, ["jobs:read"]))
    for step in range(5):
        for run in ("exp-1", "exp-2"):
            push = {"run": run, "readings": [{"step": step, "values": {"loss": 1.0}}]}
            assert worker.post("/metrics", json=push).status_code == 200
            assert other.post("/metrics", json=push).status_code == 403
    assert worker.post("/kubeflow/exp-3", json={"trainerStatus": {"progressPercentage": 5}}).status_code == 200
    audit = until_audited(door, "pushers", 4)
    told = sorted((one["data"]["outcome"], one["data"]["path"]) for one in audit)
    done = [("done", f"/api/v1/{where}") for where in ("kubeflow/exp-3", "metrics/exp-1", "metrics/exp-2")]
    assert told == [*done, ("refused", "/api/v1/metrics")]
    assert all(one["data"]["token_id"] and one["actor"] == "service-pushers" for one in audit)


def until_audited(door: Door, project: str, count: int) -> list[dict[str, Any]]:
    """The audit of a project's service, as soon as it has so many lines."""
    reader = door.by(door.token("manager", project))
    deadline = time.monotonic() + 20
    while True:
        found: list[dict[str, Any]] = reader.get("/audit", params={"actor": f"service-{project}"}).json()
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_answers_carry_security_headers_and_no_cors(door: Door) -> None:
    answer = door.root.get("/jobs", headers={"Origin": "https://evil.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


def test_huge_bodies_are_refused_announced_or_not(door: Door) -> None:
    body = b'{"name": "' + b"a" * (17 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    assert door.root.post("/jobs", content=body, headers=headers).status_code == 413

    def pieces() -> Any:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    assert door.root.post("/jobs", content=pieces(), headers=headers).status_code == 413
