"""Clients that come back after a break, as those of a user do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx


async def insist(client: httpx.AsyncClient, path: str, key: str, body: object) -> httpx.Response:
    """Post until there is an answer that is none of a server in trouble."""
    while True:
        try:
            answer = await client.post(path, json=body, headers={"Idempotency-Key": key})
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)


async def follow_stream(url: str, token: str, path: str, key: str, found: list[Any], enough: asyncio.Event) -> None:
    """Collect what server-sent events say, or what they hold under `key`; come back after a break, where it was."""
    last, headers = "0", {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=30) as client:
        while not enough.is_set():
            try:
                asked = headers | {"Last-Event-ID": last}
                async with client.stream("GET", f"{url}/api/v1{path}", headers=asked) as answer:
                    number = last
                    async for line in answer.aiter_lines():
                        if line.startswith("id: "):
                            number = line[4:]
                        elif line.startswith("data: ") and line != "data: {}":
                            # A piece counts when it is whole.
                            said = json.loads(line[6:])
                            found += said.get(key, [said])
                            last = number
            except (httpx.TransportError, json.JSONDecodeError):
                await asyncio.sleep(0.1)


def made_tokens(events: list[Any]) -> list[str]:
    """The audit events of tokens that were made."""
    return [event["event_id"] for event in events if event["data"].get("path") == "/api/v1/tokens"]
