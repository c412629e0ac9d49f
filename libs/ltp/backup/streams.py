"""JetStream's own snapshots of streams, with sequences and the positions of consumers, which nats-py has no calls for.

Protocol: https://github.com/nats-io/nats-architecture-and-design, ADR-44 and `jetstream_api.go` of nats-server 2.x.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from ltp.bus.streams import EVENTS, STREAMS
from ltp.core.errors import ErrorCode, LtpError

_CHUNK_BYTES = 128 * 1024
_TIMEOUT_SECONDS = 30.0


async def take(client: Client, folder: Path) -> dict[str, dict[str, Any]]:
    """Write a snapshot of every stream of ours into `folder`; the configuration and state of each, by name."""
    found: dict[str, dict[str, Any]] = {}
    for stream in STREAMS:
        name = stream.name or ""
        try:
            found[name] = await _snapshot(client, name, folder / f"{name}.snapshot")
        except NotFoundError:
            continue
    return found


async def messages(client: Client) -> int:
    """How many events the stream of events holds; 0 where there is none."""
    try:
        return (await client.jetstream().stream_info(EVENTS)).state.messages
    except NotFoundError:
        return 0


async def put_back(client: Client, folder: Path, taken: dict[str, dict[str, Any]]) -> None:
    """Make the streams from their snapshots, in place of what has their names."""
    for name, about in taken.items():
        try:
            await client.jetstream().delete_stream(name)
        except NotFoundError:
            pass
        await _restore(client, name, about, folder / f"{name}.snapshot")


async def message_ids_since(client: Client, start: str) -> set[str]:
    """Ids of the events that the stream holds from a moment (RFC 3339) on."""
    js = client.jetstream()
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start)  # type: ignore[arg-type]
    found: set[str] = set()
    subscription = await js.subscribe("ltp.>", stream=EVENTS, ordered_consumer=True, config=config)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        for _ in range(pending):
            message = await subscription.next_msg(timeout=_TIMEOUT_SECONDS)
            found.add((message.headers or {}).get("Nats-Msg-Id", ""))
    finally:
        await subscription.unsubscribe()
    return found


async def _snapshot(client: Client, name: str, path: Path) -> dict[str, Any]:
    await client.jetstream().stream_info(name)
    inbox, chunks = client.new_inbox(), asyncio.Queue[Any]()
    subscription = await client.subscribe(inbox, cb=chunks.put)
    try:
        asked = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": _CHUNK_BYTES}
        about = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{name}", asked)
        with path.open("wb") as file:
            while True:
                chunk = await asyncio.wait_for(chunks.get(), _TIMEOUT_SECONDS)
                status = (chunk.headers or {}).get("Status")
                if status is not None and status != "204":
                    raise _failed(name, str(chunk.headers))
                if not chunk.data:
                    break
                file.write(chunk.data)
                if chunk.reply:
                    await client.publish(chunk.reply)
    finally:
        await subscription.unsubscribe()
    return {"config": about["config"], "state": about["state"]}


async def _restore(client: Client, name: str, about: dict[str, Any], path: Path) -> None:
    answer = await _ask(client, f"$JS.API.STREAM.RESTORE.{name}", about)
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            await _send(client, name, answer["deliver_subject"], data)
    await _send(client, name, answer["deliver_subject"], b"")


async def _send(client: Client, name: str, subject: str, data: bytes) -> None:
    reply = await client.request(subject, data, timeout=_TIMEOUT_SECONDS)
    if reply.data and (error := json.loads(reply.data).get("error")):
        raise _failed(name, str(error))


async def _ask(client: Client, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    reply = await client.request(subject, json.dumps(request).encode(), timeout=_TIMEOUT_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise _failed(subject, str(answer["error"]))
    return answer


def _failed(name: str, why: str) -> LtpError:
    return LtpError(ErrorCode.SERVICE_UNAVAILABLE, f"JetStream did not do it for {name}: {why}", "See the log of NATS.")
