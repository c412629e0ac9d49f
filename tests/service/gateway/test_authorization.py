"""Every route against every role: nobody gets in without a token, and no role does what the table of scopes does not give it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from ltp.security.identity import GRANTS, SCOPES, Role
from services.gateway.app import app
from services.gateway.scopes import CLOSED, needed
from tests.service.gateway.conftest import Door

ZERO = "00000000-0000-0000-0000-000000000000"
CLIENT = httpx.Client(timeout=30)
OPEN = {"/healthz", "/readyz", "/asyncapi"}


def routes() -> list[tuple[str, str]]:
    found = [(m.upper(), path) for path, item in app.openapi()["paths"].items() for m in item]
    return sorted((m, p) for m, p in found if p not in OPEN)


def filled(path: str) -> str:
    return re.sub(r"{[^}]+}", lambda found: ZERO if found[0].endswith("_id}") else "nothing-here", path)


def call(door: Door, method: str, path: str, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body: dict[str, Any] = {} if method in {"GET", "DELETE"} else {"json": {}}
    return CLIENT.request(method, door.url + filled(path), headers=headers, **body)


def test_every_route_is_in_the_table_of_scopes() -> None:
    closed = {p for m, p in routes() if needed(m, filled(p)) == CLOSED and not p.startswith("/api/v1/settings")}
    assert closed == {"/api/v1/secrets/rotate"}
    assert {needed(m, filled(p)) for m, p in routes()} - {None} <= SCOPES


def test_nobody_gets_in_without_a_token(door: Door) -> None:
    for method, path in routes():
        for token in (None, "ltp_00000000_forged", "x" * 5000):
            answer = call(door, method, path, token)
            # Who keeps trying is slowed down.
            assert answer.status_code in {401, 429}, (method, path, answer.text)


@pytest.mark.parametrize("role", ["manager", "user", "service"])
def test_a_role_does_only_what_it_is_given(door: Door, role: Role) -> None:
    token = door.token(role, "authz")
    refused = 0
    for method, path in routes():
        scope = needed(method, filled(path))
        if scope is None or scope in GRANTS[role]:
            continue
        answer = call(door, method, path, token)
        assert answer.status_code == 403, (role, method, path, answer.status_code, answer.text)
        refused += 1
    assert refused > 20 or role == "manager"


def test_a_scoped_token_does_only_what_its_scopes_say(door: Door) -> None:
    token = door.token("admin", scopes=["jobs:read"])
    for method, path in routes():
        scope = needed(method, filled(path))
        if scope in {None, "jobs:read"}:
            continue
        assert call(door, method, path, token).status_code == 403, (method, path)


def test_what_is_not_a_route_tells_nothing(door: Door) -> None:
    user = door.token("user", "authz")
    for path in (
        "/api/v1/nothing",
        "/api/v1/../api/v1/tokens",
        "/api/v1/%74okens",
        "/api/v1//tokens",
        "/v1/tokens",
        "/api/v1/TOKENS",
    ):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "CONNECTX"):
            answer = CLIENT.request(method, door.url + path, headers={"Authorization": f"Bearer {user}"})
            assert answer.status_code in {400, 403, 404, 405}, (method, path, answer.status_code)
