"""Secrets go in and never come out: services read them at the moment of use (`ltp.security.secrets`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import Principal
from ltp.security.secrets import SecretNote, Secrets
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING
from services.gateway import store_owners
from services.gateway.access import Serving
from services.gateway.walls import Caller

router = APIRouter(tags=["secrets"])

SecretName = Annotated[Name, Path(description="What endpoints and hosts name it by.")]


class NewValue(BaseModel):
    """The value; it is encrypted and cannot be read back."""

    model_config = ConfigDict(extra="forbid")

    value: SecretStr = Field(min_length=1, max_length=65_536)


class SecretView(BaseModel):
    """What may be told of a secret."""

    name: str
    project: str
    created_at: datetime
    changed_at: datetime


class SecretList(BaseModel):
    """Secrets by name, without their values."""

    secrets: list[SecretView]


class Rotation(BaseModel):
    """How many secrets were encrypted anew, and how many old keys went."""

    secrets: int
    keys_dropped: int


@router.get("/secrets")
async def list_secrets(caller: Caller, runtime: Serving) -> SecretList:
    """Which secrets there are; never what they hold."""
    notes = await secrets_of(runtime).notes(caller.project)
    return SecretList(secrets=[SecretView(**vars(note)) for note in notes])


@router.put("/secrets/{name}")
async def set_secret(name: SecretName, given: NewValue, caller: Caller, runtime: Serving) -> SecretView:
    """Store a secret, or replace it."""
    acting = ACTING.get()
    project = caller.acts_in(acting.project if acting else None)
    secrets = secrets_of(runtime)
    async with runtime.database.unit() as unit:
        if await store_owners.claim(unit, [f"secret:{name}"], project) and caller.project is not None:
            raise LtpError(ErrorCode.CONFLICT, f"The secret name {name!r} is taken.", "Choose another name.")
        await secrets.put(unit, name, given.value.get_secret_value(), project)
    return SecretView(**vars(await _note(secrets, caller, name)))


@router.delete("/secrets/{name}", status_code=204)
async def remove_secret(name: SecretName, caller: Caller, runtime: Serving) -> None:
    """Forget a secret."""
    secrets = secrets_of(runtime)
    await _note(secrets, caller, name)
    async with runtime.database.unit() as unit:
        await secrets.remove(unit, name)


@router.post("/secrets/rotate")
async def rotate_keys(runtime: Serving) -> Rotation:
    """Encrypt every secret under a new key, and drop the keys that nothing needs any more."""
    secrets = secrets_of(runtime)
    async with runtime.database.unit() as unit:
        count = await secrets.rotate(unit)
    return Rotation(secrets=count, keys_dropped=await secrets.settle())


def secrets_of(runtime: Runtime) -> Secrets:
    """The platform's secrets."""
    return Secrets.of(runtime.database.engine, runtime.settings.root())


async def _note(secrets: Secrets, caller: Principal, name: str) -> SecretNote:
    found = [note for note in await secrets.notes(caller.project) if note.name == name]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no secret {name!r}.", "`ltp secret list` shows all.")
    return found[0]
