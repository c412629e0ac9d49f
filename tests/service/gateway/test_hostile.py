"""Hostile input at every door: nothing of it is executed, nothing leaks, and each gets a clear answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.service.gateway.conftest import Door
from tests.service.gateway.hostile import BODIES, PAYLOADS, PRODUCT

Way = Callable[[httpx.Client, str], httpx.Response]
SECONDS = 10.0  # one request; most take milliseconds, a backtracking match would take for ever
NEVER = (
    "root:x:0:", "Traceback (most recent", 'File "/', "asyncpg", "sqlalchemy", "syntax error at", "pg_catalog", "LTP_DATABASE_URL",
    "BEGIN OPENSSH", "__subclasses__", "<class '", "PostgreSQL 1",
)  # fmt: skip


class Trap:
    """An address of this machine that nothing may call."""

    def __init__(self) -> None:
        trap = self
        self.calls: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.calls.append(self.path)
                self.send_response(200)
                self.end_headers()

            do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the names that the server calls

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.server.shutdown()


def _path(form: str, method: str = "GET", **more: Any) -> Way:
    return lambda c, p: c.request(method, form.replace("@", quote(p.encode(errors="surrogatepass"), safe="")), **more)


def _query(path: str, name: str) -> Way:
    return lambda c, p: c.get(f"{path}?{name}=" + quote(p.encode(errors="surrogatepass"), safe=""))


def _header(path: str, name: str, method: str = "GET") -> Way:
    def send(client: httpx.Client, payload: str) -> httpx.Response:
        # What no HTTP client can put into a header is sent as its visible part.
        value = bytes(b for b in payload.encode(errors="surrogatepass")[:8000] if b >= 0x20 and b != 0x7F).strip()
        return client.request(method, path, headers={name: value}, **({} if method == "GET" else {"json": {}}))

    return send


def _json(path: str, shape: Any, method: str = "POST") -> Way:
    def send(client: httpx.Client, payload: str) -> httpx.Response:
        # json.dumps writes halves of characters as escapes, which is how they come.
        text = json.dumps(_with(shape, payload))
        return client.request(method, path, content=text, headers={"content-type": "application/json"})

    return send


def _with(shape: Any, payload: str) -> Any:
    if isinstance(shape, dict):
        return {_with(key, payload): _with(value, payload) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_with(value, payload) for value in shape]
    return payload if shape == "@" else shape


def _file(path: str, *, in_name: bool) -> Way:
    def send(client: httpx.Client, payload: str) -> httpx.Response:
        raw = payload.encode(errors="replace")
        name = payload.encode(errors="replace").decode() if in_name else "rows.jsonl"
        body = b'{"prompt": "a", "response": "b"}\n' if in_name else raw + b"\n"
        return client.post(path, files={"file": (name, body)}, data={"name": "hostile", "purpose": "fine-tune"})

    return send


def _outside(path: str) -> Way:
    return lambda c, p: httpx.get(
        str(c.base_url).partition("/api/")[0] + path + quote(p.encode(errors="surrogatepass"), safe="/%.;"),
        timeout=SECONDS,
    )


RECIPE = {
    "name": "r",
    "algorithm": "sft",
    "model": {"path": "tiny"},
    "dataset": {"name": "d"},
    "training": {"epochs": 1},
}
V1 = "../../v1"
DOORS: dict[str, Way] = {
    "job": _path("jobs/@"), "job metrics": _path("jobs/@/metrics"), "job pause": _path("jobs/@/pause", "POST", json={}),
    "dataset": _path("datasets/@/rows"), "dataset version": _path("datasets/@/version"), "run points": _path("metrics/@"),
    "secret name": _path("secrets/@", "PUT", json={"value": "v"}), "token": _path("tokens/@"), "webhook": _path("webhooks/@"),
    "account": _path("bus-accounts/@"), "pipeline": _path("pipelines/@"), "schedule": _path("schedules/@"), "host": _path("hosts/@"),
    "evaluation": _path("evaluations/@"), "operation": _path("operations/@"), "queue": _path("queues/@"), "any path": _path("@"),
    "events subject": _query("events", "subject"), "events about": _query("events", "about"), "events after": _query("events", "after"),
    "events since": _query("events", "since"), "jobs state": _query("jobs", "state"), "jobs cursor": _query("jobs", "cursor"),
    "jobs project": _query("jobs", "project"), "audit actor": _query("audit", "actor"), "work owner": _query("work", "owner"),
    "resume point": _header("events", "Last-Event-ID"), "request id": _header("whoami", "X-Request-Id"), "project": _header("whoami", "X-LTP-Project"),
    "bearer": _header("whoami", "Authorization"), "content type": _header("tokens", "Content-Type", "POST"), "host header": _header("whoami", "X-Forwarded-Host"),
    "key": _header("jobs", "Idempotency-Key", "POST"), "etag": _header("whoami", "If-None-Match"), "cookie": _header("whoami", "Cookie"),
    "token name": _json("tokens", {"name": "@", "role": "user"}), "token role": _json("tokens", {"name": "a", "role": "@"}), "scope": _json("tokens", {"name": "a", "scopes": ["@"]}),
    "webhook url": _json("webhooks", {"url": "@", "subjects": ["ltp.nothing.v1.said"]}), "webhook subject": _json("webhooks", {"url": "http://example.com/", "subjects": ["@"]}),
    "account name": _json("bus-accounts", {"name": "@"}), "account subject": _json("bus-accounts", {"name": "a", "subjects": ["@"]}),
    "secret value": _json("secrets/hostile", {"value": "@"}, "PUT"), "recipe": _json("jobs", {"recipe": {**RECIPE, "name": "@"}}),
    "model path": _json("jobs", {"recipe": {**RECIPE, "model": {"path": "@"}}}), "job dataset": _json("jobs", {"recipe": {**RECIPE, "dataset": {"name": "@"}}}),
    "reward": _json("jobs", {"recipe": {**RECIPE, "algorithm": "grpo", "reward": {"kind": "function", "file": "@", "function": "@"}}}),
    "plan": _json("plans", {"recipe": {**RECIPE, "model": {"path": "@"}}}), "metrics run": _json("metrics", {"run": "@", "readings": []}),
    "metrics key": _json("metrics", {"run": "hostile", "readings": [{"step": 1, "values": {"@": 1.0}}]}), "metrics value": _json("metrics", {"run": "hostile", "readings": [{"step": 1, "values": {"a": "@"}}]}),
    "kubeflow": _json("kubeflow/hostile", {"trainerStatus": {"metrics": [{"name": "@", "value": "@"}]}}), "source": _json("datasets/sources", {"name": "hostile", "url": "@", "source": "@"}),
    "new host": _json("hosts", {"name": "@", "address": "@", "user": "@"}), "endpoint": _json("evaluations", {"name": "a", "model": {"kind": "api", "url": "@", "name": "m"}, "tasks": []}),
    "merge": _json("operations", {"kind": "merge", "output": "@", "recipe": {"models": [{"model": "@"}]}}), "cron": _json("schedules", {"name": "hostile", "cron": "@", "job": {}}),
    "new pipeline": _json("pipelines", {"name": "hostile", "stages": {"@": {"kind": "@"}}}), "keys": _json("tokens", {"@": "@"}), "text": _json("tokens", "@"), "list": _json("plans", ["@"]),
    "file name": _file("datasets", in_name=True), "file": _file("datasets", in_name=False), "openai file": _file(f"{V1}/files", in_name=True),
    "openai job": _json(f"{V1}/fine_tuning/jobs", {"model": "@", "training_file": "@", "suffix": "@"}), "openai chat": _json(f"{V1}/chat/completions", {"model": "@", "messages": [{"role": "user", "content": "@"}]}),
    "openai model": _path(f"{V1}/models/@"), "openai list": _query(f"{V1}/fine_tuning/jobs", "after"), "static": _outside("/docs/"), "root": _outside("/"),
}  # fmt: skip


def clear(door: Door, where: str, payload: str, answer: httpx.Response, secrets: tuple[str, ...]) -> None:
    """Nothing that only we know is in an answer, and a refusal says what is wrong."""
    shown = f"{where} {payload[:80]!r}: {answer.status_code} {answer.text[:300]}"
    unavailable = answer.status_code == 503 and "service_unavailable" in answer.text
    assert answer.status_code < 500 or unavailable, shown
    text = answer.text.replace(payload, "").replace(payload[:100], "")
    for never in (*NEVER, *secrets):
        assert never not in text or never in payload, shown
    assert PRODUCT not in answer.text, shown
    if answer.status_code >= 400 and "json" in answer.headers.get("content-type", ""):
        problem = answer.json()
        assert problem.get("detail") or problem.get("error", {}).get("message"), shown
    assert "a=b" not in answer.headers.get("set-cookie", ""), shown


class Room:
    """What must be as before when all was sent."""

    def __init__(self, door: Door, folder: Path, trap: Trap) -> None:
        self.door, self.trap, self.canary = door, trap, folder / "canary"
        self.pid, self.log_at = door.process.pid, door.log.stat().st_size
        keyring = (door.data / "secrets" / "keyring").read_text().split()
        self.secrets = (door.admin, *keyring)
        self.client = httpx.Client(
            base_url=f"{door.url}/api/v1", headers={"Authorization": f"Bearer {door.admin}"}, timeout=SECONDS
        )

    def send(self, where: str, payload: str) -> None:
        text = payload.replace("{canary}", str(self.canary)).replace("{trap}", self.trap.address)
        try:
            answer = DOORS[where](self.client, text)
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
            return  # No client can send this.
        clear(self.door, where, text, answer, self.secrets)

    def is_whole(self) -> None:
        assert self.door.process.poll() is None and self.door.process.pid == self.pid
        assert not self.canary.exists() and self.trap.calls == []
        assert self.client.get("whoami").json()["role"] == "admin"
        with self.door.log.open(errors="replace") as log:
            log.seek(self.log_at)
            written = log.read()
        assert "request failed unexpectedly" not in written, written[-3000:]
        assert not [secret for secret in self.secrets if secret in written]
        admins = [t for t in self.client.get("tokens", params={"limit": 1000}).json()["tokens"] if t["role"] == "admin"]
        assert {t["created_by"] for t in admins} <= {"ltp up", "first-admin"}


def test_the_corpus_is_large() -> None:
    assert len(PAYLOADS) + len(BODIES) >= 500 and len({text for _, text in PAYLOADS}) >= 500


def test_every_payload_at_one_door_and_every_door_with_some(door: Door, tmp_path: Path, trap: Trap) -> None:
    room, names = Room(door, tmp_path, trap), list(DOORS)
    for number, (_, payload) in enumerate(PAYLOADS):
        room.send(names[number % len(names)], payload)
    room.is_whole()


def test_bodies_that_are_none(door: Door, tmp_path: Path, trap: Trap) -> None:
    room = Room(door, tmp_path, trap)
    for path in ("tokens", "jobs", "metrics", "webhooks", "plans", f"{V1}/fine_tuning/jobs"):
        for body in BODIES:
            for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain; charset=utf-7"):
                answer = room.client.post(path, content=body, headers={"content-type": kind})
                assert 400 <= answer.status_code < 500, (path, body[:50], kind, answer.status_code, answer.text[:300])
    for much in ({"content-encoding": "gzip"}, {"content-encoding": "zip, gzip"}, {"expect": "100-continue"}):
        assert room.client.post("tokens", content=b"{}", headers=much).status_code < 500
    room.is_whole()


def test_a_request_sent_twice_does_its_work_once(door: Door) -> None:
    push = {"run": "replayed", "readings": [{"step": 1, "values": {"a": 1.0}}]}
    assert [door.root.post("/metrics", json=push).json()["accepted"] for _ in range(3)] == [1, 0, 0]
    token = door.token("user", "replay")
    key = door.root.get("/tokens").json()["tokens"][0]["token_id"]
    assert [door.root.delete(f"/tokens/{key}").status_code for _ in range(2)] == [200, 200]
    assert door.by(token).get("/whoami").status_code == 401


def test_a_number_that_no_listener_could_hold_is_no_fact(door: Door) -> None:
    before = len(door.root.get("/events", params={"subject": "ltp.project.v1.limited"}).json())
    for number in (2**63, 10**19, -(2**70), 10**300):
        answer = door.root.put("/dataset-quotas/default", json={"quota_bytes": abs(number)})
        assert answer.status_code == 400, answer.text
        answer = door.root.get("/datasets/none/rows", params={"offset": abs(number)})
        assert answer.status_code in {400, 404}, answer.text
    assert len(door.root.get("/events", params={"subject": "ltp.project.v1.limited"}).json()) == before


@pytest.mark.slow
@pytest.mark.parametrize("where", DOORS)
def test_every_payload_at_every_door(door: Door, tmp_path: Path, trap: Trap, where: str) -> None:
    room = Room(door, tmp_path, trap)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(partial(room.send, where), [payload for _, payload in PAYLOADS]))
    room.is_whole()
