"""Planted secrets: given to the platform by every way there is, and then looked for in everything it wrote."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import asyncpg

from tests.service.gateway.conftest import Door
from tests.service.gateway.receiver import Receiver

CANARY = "cAnArY-7f3a9e51b2"


def written(folder: Path) -> list[Path]:
    """Files that hold the canary."""
    found: list[Path] = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if path.is_file() and CANARY.encode() in path.read_bytes():
                found.append(path)
    return found


async def rows_with(url: str, *texts: str) -> list[str]:
    """Tables that hold one of the texts in any column."""
    connection: Any = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        query = (
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        found: list[str] = []
        for schema, table in await connection.fetch(query):
            for text in texts:
                # Bytes are written as hexadecimal digits.
                hidden = text.encode().hex()
                held = f'SELECT count(*) FROM "{schema}"."{table}" t WHERE t::text LIKE $1 OR t::text LIKE $2'  # noqa: S608 - its own names
                if await connection.fetchval(held, f"%{text}%", f"%{hidden}%"):
                    found.append(f"{schema}.{table}: {text[:12]}")
        return found
    finally:
        await connection.close()


def test_a_secret_is_in_nothing_that_was_written(door: Door) -> None:
    client = door.root
    assert client.put("/secrets/canary", json={"value": CANARY}).is_success
    with Receiver() as receiver:
        hook = client.post("/webhooks", json={"url": receiver.url, "name": "canary"}).json()
        token = client.post("/tokens", json={"name": "canary", "role": "user", "project": "canary"}).json()["token"]
        # Ways in which a secret is sent where it does not belong, and in which an answer could say it again.
        answers = [
            client.put("/secrets/canary", json={"value": {"a": CANARY}}), client.put("/secrets/canary", json={"valeu": CANARY}),
            client.put("/secrets/canary", content=f'{{"value": "{CANARY}'), client.put("/secrets/../canary", json={"value": CANARY}),
            client.get("/secrets"), client.get("/secrets/canary"), client.post("/secrets/rotate"), client.get("/audit"),
            client.get("/events", params={"limit": 10_000}), client.get("/webhooks"), client.get("/settings"), client.get("/tokens"),
            door.by(token).get("/secrets"), door.by(f"ltp_0000_{CANARY}").get("/jobs"),
        ]  # fmt: skip
        deadline = time.monotonic() + 20
        while not receiver.good and time.monotonic() < deadline:
            time.sleep(0.05)
        sent = b"".join(one.body + json.dumps(one.headers).encode() for one in receiver.taken)
    signing = hook["secret"].removeprefix("whsec_")
    for answer in answers:
        for secret in (CANARY, signing, token, door.admin):
            assert secret not in answer.text, (answer.request.method, answer.url, secret)
    assert receiver.taken and not [s for s in (CANARY, signing, token, door.admin) if s.encode() in sent]
    assert asyncio.run(rows_with(door.database_url, CANARY, signing, token, door.admin)) == []
    assert written(door.data) == [] and CANARY not in door.log.read_text(errors="replace")
    log = door.log.read_text(errors="replace")
    assert not [secret for secret in (signing, token, door.admin) if secret in log]
    listed = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if CANARY in line or token in line or door.admin in line]
    client.delete(f"/webhooks/{hook['webhook_id']}")
