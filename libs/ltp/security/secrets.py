"""Stored secrets: the one place where keys and passwords of others lie. Written through the API, read by services alone.

A secret is named by what needs it (an endpoint, a host) and read at the moment of use; its value goes into no event, log,
trace, argument vector or message. Names are unique over all projects; the gateway lets a project name only its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Column, LargeBinary, String, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.keyring import Keyring
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names of the platform's own, which no user can spell.
OWN = "_"
MAX_BYTES = 64 << 10

table = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("changed_at", TIME, nullable=False, server_default=func.now()),
    schema="security",
)


@dataclass(frozen=True)
class SecretNote:
    """What may be told of a secret."""

    name: str
    project: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class Secrets:
    """The secrets of a database, and the file of their keys. The file is read at each use, so that a rotation holds at once."""

    engine: AsyncEngine
    keyring_file: Path

    @classmethod
    def of(cls, engine: AsyncEngine, root: Path) -> Secrets:
        """The secrets of the platform whose data directory is `root`."""
        return cls(engine, root / "secrets" / "keyring")

    async def read(self, name: str) -> str:
        """The value. Raises SECRET_NOT_FOUND, KEYRING_UNUSABLE."""
        async with self.engine.connect() as connection:
            ciphertext = await connection.scalar(select(table.c.ciphertext).where(table.c.name == name))
        if ciphertext is None:
            raise missing(name)
        return Keyring.load(self.keyring_file).decrypt(ciphertext)

    async def put(self, unit: Unit, name: str, value: str, project: str) -> None:
        """Store or replace, in the transaction of `unit`. Raises INVALID_REQUEST for a value that is none."""
        if not value or len(value.encode()) > MAX_BYTES or "\0" in value:
            message = f"A secret has 1 to {MAX_BYTES} bytes and no NUL."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give the value on standard input, or as a file.")
        ciphertext = Keyring.load(self.keyring_file).encrypt(value)
        row = insert(table).values(name=name, project=project, ciphertext=ciphertext)
        changed = {"ciphertext": ciphertext, "changed_at": func.now()}
        await unit.execute(row.on_conflict_do_update(index_elements=["name"], set_=changed))

    async def remove(self, unit: Unit, name: str) -> None:
        """Forget a secret. Raises SECRET_NOT_FOUND."""
        if await unit.change(delete(table).where(table.c.name == name)) == 0:
            raise missing(name)

    async def notes(self, project: str | None) -> list[SecretNote]:
        """Which secrets there are, by name, without their values; the platform's own are left out."""
        query = select(table.c.name, table.c.project, table.c.created_at, table.c.changed_at).order_by(table.c.name)
        query = query.where(~table.c.name.startswith(OWN, autoescape=True))
        if project is not None:
            query = query.where(table.c.project == project)
        async with self.engine.connect() as connection:
            return [SecretNote(**row) for row in (await connection.execute(query)).mappings()]

    async def rotate(self, unit: Unit) -> int:
        """Encrypt every secret under a new key; returns how many. Old keys go once the transaction is over (`settle`).

        Killed in between, both keys are in the file, and either state of the table can be read.
        """
        ring = Keyring.load(self.keyring_file).with_new_key()
        # The table is locked, so that nothing is stored under an old key meanwhile.
        rows = (await unit.execute(select(table.c.name, table.c.ciphertext).with_for_update())).all()
        for row in rows:
            renewed = ring.renew(row.ciphertext)
            await unit.execute(update(table).where(table.c.name == row.name).values(ciphertext=renewed))
        return len(rows)

    async def settle(self) -> int:
        """Drop the keys that no stored secret needs; returns how many keys went."""
        ring = Keyring.load(self.keyring_file)
        newest = Keyring(ring.path, ring.keys[:1])
        async with self.engine.connect() as connection:
            for ciphertext in (await connection.execute(select(table.c.ciphertext))).scalars():
                newest.decrypt(ciphertext)
        ring.first_only()
        return len(ring.keys) - 1


def missing(name: str) -> LtpError:
    """There is no such secret."""
    shown = name[:100] if NAME.fullmatch(name) else "of this name"
    return LtpError(
        ErrorCode.SECRET_NOT_FOUND, f"There is no secret {shown!r}.", f"Store it with `ltp secret set {shown}`."
    )
