"""The file from which NATS knows its users: services from `ltp up`, subscribers from the gateway, each a part of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import bcrypt

from ltp.bus.permissions import BusUser, rendered
from ltp.security.private_file import write_private

USERS = "users.conf"
SERVICES_PART, SUBSCRIBERS_PART = "services", "subscribers"
# The passwords are random and long: there is nothing to guess, and a costly hash would slow every connection.
_COST = 4


def digest_of(password: str) -> str:
    """What NATS keeps of a password."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_COST)).decode()


def write_part(folder: Path, part: str, users: Sequence[BusUser]) -> bool:
    """Replace one part, and the file NATS reads; False when nothing changed. A reader sees the old file or the new one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / f"{part}.json", json.dumps([asdict(user) for user in users]))
    text = rendered([user for name in (SERVICES_PART, SUBSCRIBERS_PART) for user in read_part(folder, name)])
    return _write(folder / USERS, text)


def read_part(folder: Path, part: str) -> list[BusUser]:
    """The users of a part, none where it was never written."""
    path = folder / f"{part}.json"
    if not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [BusUser(r["name"], r["digest"], tuple(r["publish"]), tuple(r["subscribe"])) for r in rows]


def _write(path: Path, text: str) -> bool:
    if path.exists() and path.read_text() == text:
        return False
    write_private(path, text)
    return True
