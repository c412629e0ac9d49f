"""Workers that push points, a batch of each run each second; as light as can be, for they share the machine with the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_AGAIN_SECONDS = 0.2


class _Connection:
    """Requests one after the other over one connection, made again when it broke."""

    def __init__(self, url: str, token: str) -> None:
        self._place, self._token = urlsplit(url), token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        """The answer's body. A batch is sent until it is answered, as a worker does."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        while True:
            try:
                status, answer = await self._exchange(head.encode() + body)
            except (OSError, asyncio.IncompleteReadError):
                self._streams = None
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if status == 200:
                return answer
            assert status == 503, answer
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(head)
        assert found is not None, head
        return int(head.split(b" ", 2)[1]), await reader.readexactly(int(found[1]))


async def push(url: str, token: str, runs: int, each: int, seconds: int) -> tuple[int, float]:
    """A batch of `each` points of each run each second, spread over the second; returns (points accepted, seconds)."""
    began = time.monotonic()

    async def worker(number: int) -> int:
        count, connection = 0, _Connection(url, token)
        for second in range(seconds):
            await asyncio.sleep(max(0.0, began + second + number / runs - time.monotonic()))
            at = datetime.now(UTC).isoformat()
            steps = range(second * each, (second + 1) * each)
            readings = ",".join(f'{{"step":{step},"values":{{"loss":1.5}},"at":"{at}"}}' for step in steps)
            answer = await connection.post(
                "/api/v1/metrics", f'{{"run":"load-{number}","readings":[{readings}]}}'.encode()
            )
            told = json.loads(answer)
            # What was known came with a request whose answer was lost.
            count += told["accepted"] + told["known"]
        return count

    return sum(await asyncio.gather(*(worker(number) for number in range(runs)))), time.monotonic() - began
