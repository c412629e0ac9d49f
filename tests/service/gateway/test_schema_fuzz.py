"""What the OpenAPI says is what the gateway does: every operation with made-up input, in and out of its schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks

from ltp.security.identity import GRANTS, Role
from services.gateway.app import app
from services.gateway.scopes import needed
from tests.service.gateway.conftest import Door

CLIENT = httpx.Client(timeout=30)
# These stay open until their reader goes.
STREAMS = ("/stream",)
OPEN = {"/healthz", "/readyz", "/asyncapi"}
NAMES = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


def operations() -> list[Any]:
    schema = schemathesis.openapi.from_dict(app.openapi())
    found = [result.ok() for result in schema.get_all_operations()]
    return [operation for operation in found if not operation.path.endswith(STREAMS)]


def fuzz(
    door: Door, token: str | None, examples: int, every: int = 1, granted: frozenset[str] | None = None
) -> list[str]:
    """Call every operation, or every nth, so often; returns what went wrong. Without its scope (`granted`) nothing passes."""
    checks = [getattr(openapi_checks, name) for name in NAMES]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    faults: list[str] = []
    for operation in operations()[::every]:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except Exception:  # noqa: S112 - nothing of this operation can be wrong
                continue
            try:
                _run(operation, strategy, door, headers, checks, examples, granted)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                inner = "".join(f"\n{each!r}"[:500] for each in getattr(error, "exceptions", ()))
                text = f"{type(error).__name__}: {str(error)[:1500]}{inner}"
                if "Unsatisfiable" not in text and "Impossible" not in text:
                    faults.append(f"{operation.label} {mode.name}: {text}")
    return faults


def _run(
    operation: Any,
    strategy: Any,
    door: Door,
    headers: dict[str, str],
    checks: list[Any],
    examples: int,
    granted: frozenset[str] | None,
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def once(case: Any) -> None:
        case.headers = {**(case.headers or {}), **headers}
        if not headers:
            case.headers.pop("Authorization", None)
        answer = send(door, case, headers)
        # Only the gateway runs here: a question to another service finds nobody.
        nobody = answer.status_code == 503 and answer.json().get("code") == "service_unavailable"
        assert answer.status_code < 500 or nobody or _openai_nobody(answer), f"{answer.status_code} {answer.text[:500]}"
        scope = needed(answer.request.method, answer.request.url.path)
        if granted is not None and scope not in {None, *granted} and operation.path not in OPEN:
            # What is no route tells nobody that it is none.
            assert answer.status_code in {403, 404, 405}, f"without {scope}: {answer.status_code} {answer.text[:300]}"
        if headers:
            case.validate_response(Response.from_httpx(answer, verify=False), checks=checks, headers=headers)
        else:
            assert answer.status_code in {200, 401, 404, 405, 429}, answer.text[:300]
            assert answer.status_code != 200 or operation.path in OPEN

    once()


def send(door: Door, case: Any, headers: dict[str, str]) -> httpx.Response:
    """The case as a request; what no client can put into a request is not sent."""
    made = case.as_transport_kwargs(base_url=door.url, headers=headers)
    data, files = made.get("data"), made.get("files")
    body: dict[str, Any] = {"json": made["json"]} if made.get("json") is not None else {}
    if files or isinstance(data, dict):
        # What is wrong with a form may be that its file is none.
        parts = {name: part for name, part in dict(files or {}).items() if isinstance(part, str | bytes | tuple)}
        body = {"files": parts, "data": data if isinstance(data, dict) else None}
    elif data is not None:
        body = {"content": data}
    sent = {k: v for k, v in dict(made["headers"]).items() if isinstance(v, str | bytes)}
    try:
        request = CLIENT.build_request(made["method"], made["url"], params=made.get("params"), headers=sent, **body)
        request.read()  # The report of a fault shows it.
    except (UnicodeError, httpx.InvalidURL, TypeError, ValueError, AttributeError):
        reject()
    try:
        return CLIENT.send(request)
    except httpx.LocalProtocolError:
        reject()


def _openai_nobody(answer: Any) -> bool:
    return bool(answer.status_code == 503 and "error" in answer.json())


def test_some_operations_answer_as_they_say(door: Door) -> None:
    faults = fuzz(door, door.admin, 2, every=8)
    assert not faults, f"{len(faults)} faults\n" + "\n\n".join(faults)


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> Door:
    """The platform at `LTP_FUZZ_URL` (with `LTP_FUZZ_TOKEN`, an administrator's), where every service answers; or the door alone."""
    url = os.environ.get("LTP_FUZZ_URL")
    if url is None:
        door: Door = request.getfixturevalue("door")
        return door
    return Door(url, os.environ["LTP_FUZZ_TOKEN"], Path(), "", None, {}, Path())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["admin", "user", "service", None])
def test_every_operation_answers_as_it_says_often(whole: Door, role: Role | None) -> None:
    token = whole.admin if role == "admin" else role and whole.token(role, "fuzz")
    examples = int(os.environ.get("LTP_FUZZ_EXAMPLES", "25"))
    faults = fuzz(whole, token, examples, granted=None if role is None else GRANTS[role])
    assert not faults, f"{len(faults)} faults\n" + "\n\n".join(faults)
