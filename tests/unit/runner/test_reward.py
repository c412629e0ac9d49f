"""Rewards are right, and one that breaks is an error with a reason, never a silent zero."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from ltp_verl.reward_http import reachable
from ltp_verl.rewards import Asked, RewardError, open_reward

pytestmark = pytest.mark.asyncio


def asked(response: str, answer: str | None = "42") -> Asked:
    return Asked([{"role": "user", "content": "?"}], response, answer, "sums", {"id": "row-1"})


async def judged(reward: dict[str, Any], response: str, answer: str | None = "42") -> float:
    async with open_reward({"timeout_seconds": 2.0, **reward}) as judge:
        return await judge(asked(response, answer))


def function(body: str) -> dict[str, Any]:
    source = f"def compute_score(data_source, solution_str, ground_truth, extra_info):\n    {body}\n"
    return {"kind": "function", "file": "f.py", "function": "compute_score", "source": source}


@pytest.mark.parametrize(
    ("verifier", "response", "answer", "score"),
    [
        ({"verifier": "exact"}, " 42.\n", "42", 1.0),
        ({"verifier": "numeric"}, "It is 1,042.50 in all", "1042.5", 1.0),
        ({"verifier": "numeric"}, "none", "6", 0.0),
        ({"verifier": "normalised"}, "The cat!", "a cat", 1.0),
        ({"verifier": "choice", "letters": "ABCD"}, "The answer is (B).", "B", 1.0),
        ({"verifier": "choice", "letters": "ABCD"}, "It may be (A) or (B)", "B", 0.0),
        ({"verifier": "regex", "pattern": r"#### (\d+)", "ignore_case": True}, "so #### 42", "42", 1.0),
        ({"verifier": "regex", "pattern": r"#### (\d+)", "ignore_case": True}, "so 42", "42", 0.0),
        ({"verifier": "code"}, "def f(x): return x + 1", "assert f(1) == 2", 1.0),
        ({"verifier": "code"}, "exit(0)", "assert f(1) == 2", 0.0),
        (function("return 0.25 if extra_info['id'] == 'row-1' and data_source == 'sums' else 0"), "", None, 0.25),
        (function("return {'score': len(solution_str), 'more': 1}"), "abc", "x", 3.0),
    ],
)
async def test_scores(verifier: dict[str, Any], response: str, answer: str | None, score: float) -> None:
    assert await judged({"kind": "verifier", **verifier}, response, answer) == score


@pytest.mark.parametrize(
    ("reward", "answer", "why"),
    [
        ({"kind": "verifier", "verifier": "exact"}, None, "no right answer"),
        ({"kind": "verifier", "verifier": "choice", "letters": "AB"}, "Z", "no letter of AB"),
        (function("raise KeyError('oh')"), "1", "KeyError: 'oh'"),
        (function("return float('nan')"), "1", "no finite number"),
        (function("return '1.0'"), "1", "no finite number"),
        (function("return None"), "1", "TypeError"),
        (function("while True: pass"), "1", "not done within"),
        (function("import os; os._exit(3)"), "1", "ended early"),
        (function("import socket; socket.create_connection(('127.0.0.1', 22), 1)"), "1", "Error"),
    ],
)
async def test_what_cannot_be_judged_says_why(reward: dict[str, Any], answer: str | None, why: str) -> None:
    with pytest.raises(RewardError, match=why):
        await judged(reward, "1", answer)


@contextmanager
def service(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server that gives these answers in turn, and what it was asked."""
    left, seen = list(answers), list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/judge?x=1", seen
    finally:
        server.shutdown()


def http(url: str, retries: int = 1) -> dict[str, Any]:
    return {"kind": "http", "url": url, "retries": retries, "allow_link_local": False}


async def test_a_service_is_asked_again_after_a_passing_failure() -> None:
    with service((503, b""), (200, b'{"score": 0.5}')) as (url, seen):
        assert await judged(http(url), "four", "4") == 0.5
    assert [question["response"] for question in seen] == ["four", "four"]
    assert seen[0]["answer"] == "4"
    assert seen[0]["prompt"] == [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (500, b"", r"HTTP 500 \(2 tries\)"),
        (404, b"", "answered HTTP 404"),
        (302, b"", "answered HTTP 302"),
        (200, b"no json", "something else"),
        (200, b'{"score": NaN}', "no finite number"),
        (200, b'{"score": "1"}', "no finite number"),
    ],
)
async def test_a_service_that_answers_badly(status: int, body: bytes, why: str) -> None:
    with service((status, body)) as (url, _), pytest.raises(RewardError, match=why):
        await judged(http(url), "four")


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1", "2852039166"],
)
async def test_addresses_that_a_reward_must_not_reach(host: str) -> None:
    with pytest.raises(RewardError, match="link-local, metadata or multicast"):
        reachable(host, 80, link_local=False)


async def test_a_link_local_address_can_be_allowed() -> None:
    assert reachable("169.254.1.1", 80, link_local=True) == "169.254.1.1"
