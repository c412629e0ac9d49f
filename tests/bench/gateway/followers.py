"""A process of clients that follow runs, half of them server-sent events and half WebSockets, and tell what they had and how late.

Prints one line of JSON a second, the last at SIGTERM: `{"points", "doubled", "lags": seconds of each delivery, newest per event}`.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import websockets

_AT, _ID = re.compile(rb'"at":\s?"([^"]+)"'), re.compile(rb"(?m)^id: (\d+)")


class Tally:
    """What one client had."""

    def __init__(self) -> None:
        self.points = self.doubled = self.last = 0
        self.lags: list[float] = []

    def took(self, seq: int, points: int, at: str) -> None:
        """One event."""
        self.doubled += seq <= self.last
        self.last = max(self.last, seq)
        self.points += points
        self.lags.append(time.time() - datetime.fromisoformat(at).timestamp())


async def sse(url: str, token: str, run: str, tally: Tally) -> None:
    """Follow a run; come back where it broke off."""
    place = urlsplit(url)
    while True:
        try:
            reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 24)
            head = f"GET /api/v1/metrics/{run}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            writer.write(f"{head}Last-Event-ID: {tally.last}\r\n\r\n".encode())
            while True:
                block = await reader.readuntil(b"\n\n")
                if found := _ID.search(block):
                    ats = _AT.findall(block)
                    tally.took(int(found[1]), block.count(b'"step":'), ats[-1].decode())
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.2)


async def socket(url: str, token: str, run: str, tally: Tally) -> None:
    """The same over a WebSocket."""
    address = url.replace("http", "ws", 1) + "/api/v1/events/ws"
    while True:
        try:
            headers = {"Authorization": f"Bearer {token}"}
            async with websockets.connect(address, additional_headers=headers, compression=None) as client:
                await client.send(json.dumps({"id": "a", "topic": "points", "run": run, "after": tally.last}))
                async for text in client:
                    line: dict[str, Any] = json.loads(text)
                    points = line["data"]["points"]
                    tally.took(line["seq"], len(points), points[-1]["at"])
        except (OSError, websockets.WebSocketException):
            await asyncio.sleep(0.2)


async def main(url: str, token: str, runs: int, streams: int, sockets: int) -> None:
    """Follow until told to stop."""
    tallies = [Tally() for _ in range(streams + sockets)]
    tasks = [
        asyncio.create_task((sse if n < streams else socket)(url, token, f"load-{n % runs}", tally))
        for n, tally in enumerate(tallies)
    ]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), 1)
        except TimeoutError:
            pass
        lags = [lag for tally in tallies for lag in tally.lags]
        told = {"points": [t.points for t in tallies], "doubled": sum(t.doubled for t in tallies), "lags": lags}
        for tally in tallies:
            tally.lags = []
        print(json.dumps(told), flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])))
