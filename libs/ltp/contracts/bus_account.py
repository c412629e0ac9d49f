"""Accounts of other systems on the bus: who may listen to which events over NATS, and from where on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from ltp.contracts.values import Name
from ltp.contracts.webhook import Subjects

# It becomes a part of subjects and consumers, where a dot would be a border.
AccountName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$")]
Sequence = Annotated[int, Field(ge=0, lt=2**63)]
MOST_ACCOUNTS = 100


class StartingPoint(BaseModel):
    """From where on events are given: after a sequence number (as `/events` counts), from a time on, or from now on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"after": 1200}]})

    after: Sequence | None = None
    since: AwareDatetime | None = None


class NewBusAccount(StartingPoint):
    """Who listens, and to what. A project's account hears its project's events; null is all, for a maker who may see all."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "billing", "subjects": ["ltp.job.v1.*"]}]}
    )

    name: AccountName
    subjects: Subjects = Field(default=["ltp.>"], description="Event types, `*` for one token, `>` for the rest.")
    project: Name | None = None
    expires_in_days: float | None = Field(default=None, gt=0, le=3650)


class BusAccountView(BaseModel):
    """An account, and what its owner needs to connect, without the password."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    account_id: UUID
    name: str
    user: str
    project: str | None
    subjects: list[str]
    # Kept events are taken from this consumer of this stream; each is given until it is acknowledged.
    stream: str
    consumer: str
    # Live events without keeping: subscribe to these.
    live_subjects: list[str]
    # Answers come below this prefix; clients must be told to use it.
    inbox_prefix: str
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class MadeBusAccount(BusAccountView):
    """A new account. `password` is shown this once; NATS keeps its hash."""

    password: str


class BusAccountList(BaseModel):
    """A page of accounts. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    accounts: list[BusAccountView]
    next_cursor: str | None = None
