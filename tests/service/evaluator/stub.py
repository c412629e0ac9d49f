"""An OpenAI-compatible endpoint that answers sums, and misbehaves as its model's name says; with a rate limit if asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any


class Stub:
    """Counts what it is asked. `per_second` is a token bucket that holds `burst` requests."""

    def __init__(self, per_second: float = 0.0, burst: float = 10.0, delay: float = 0.0) -> None:
        self.per_second, self.burst, self.delay = per_second, burst, delay
        self.asked: Counter[str] = Counter()
        self.refused, self.fail_next, self.most_open, self._open = 0, 0, 0, 0
        self.answered_at: list[float] = []
        self.keys: set[str] = set()
        self._tokens, self._at = burst, time.monotonic()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Stub]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, limit=1 << 20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split()[0]) if "content-length:" in head else 0
                body = json.loads(await reader.readexactly(length) or b"{}")
                if "authorization:" in head:
                    self.keys.add(head.split("authorization:")[1].split("\r\n")[0].strip())
                self._open += 1
                self.most_open = max(self.most_open, self._open)
                status, headers, answer = await self._answer(body)
                self._open -= 1
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                start = f"HTTP/1.1 {status} x\r\ncontent-length: {len(payload)}\r\n{extra}"
                writer.write(f"{start}content-type: application/json\r\n\r\n".encode() + payload)
                await writer.drain()
        writer.close()

    async def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        model, text = body["model"], body["messages"][-1]["content"]
        if self.fail_next:
            self.fail_next -= 1
            return 503, {}, {"error": {"message": "overloaded"}}
        if self.per_second and not self._take():
            self.refused += 1
            wait = max(1, int(1000 / self.per_second))
            return 429, {"retry-after-ms": str(wait)}, {"error": {"message": "slow down"}}
        self.asked[text] += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        if model == "asleep":
            await asyncio.sleep(30)
        special = {
            "busy": (429, {"error": {"message": "too many requests"}}),
            "unknown": (404, {"error": {"message": "no such model"}}),
            "locked": (401, {"error": {"message": "wrong key"}}),
            "short": (400, {"error": {"message": "maximum context length is 8 tokens"}}),
            "garbage": (200, b"<html>"),
            "shapeless": (200, {"choices": []}),
        }
        if model in special:
            return special[model][0], {}, special[model][1]
        self.answered_at.append(time.monotonic())
        said = self._said(model, text, body)
        reason = "length" if model == "cut" else "stop"
        usage = {"prompt_tokens": 5, "completion_tokens": 1}
        return 200, {}, {"choices": [{"message": {"content": said}, "finish_reason": reason}], "usage": usage}

    def _said(self, model: str, text: str, body: dict[str, Any]) -> str:
        if model == "silent":
            return ""
        if model == "judge":
            first, second = (part.split("\n")[1] for part in text.split("# Answer ")[1:])
            return (
                "VERDICT: 1"
                if len(first) > len(second)
                else "VERDICT: 2"
                if len(second) > len(first)
                else "VERDICT: TIE"
            )
        if model == "first":
            return "I like it. VERDICT: 1"
        if model == "mumbling":
            return "hard to say"
        one, _, other = text.partition(" + ")
        right = int(one) + int(other)
        wrong = (model == "weak" and right % 3 == 0) or (model == "random" and body["seed"] % 2)
        return "-1" if wrong else str(right)

    def _take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


async def _serve() -> None:
    async with Stub().serving() as stub:
        print(stub.url, flush=True)  # noqa: T201 - whoever started it reads where it is
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
