"""Who did what at the door: the audit of every change that was asked for, and tokens as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ltp.contracts.event import Event
from ltp.contracts.values import Name


class AuditRecorded(Event, subject="ltp.audit.v1.recorded", speaker="gateway"):
    """Somebody changed something through the door, or was not let. What they caused names this event as its cause."""

    actor: str
    role: str
    project: str | None
    # None where the platform itself acts.
    token_id: UUID | None
    method: str
    path: str
    request_id: str
    outcome: Literal["done", "refused"]


class NewToken(BaseModel):
    """What a token may do. Without scopes it may do all that its role may; without a project it is the maker's."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "ci", "role": "user", "project": "search", "expires_in_days": 90}]},
    )

    name: Name
    role: Literal["admin", "manager", "user", "service"] = "user"
    project: Name | None = Field(default=None, description="Null is all projects, for a maker who may see all.")
    scopes: list[str] | None = Field(default=None, max_length=100, description="As `jobs:read`; a part of the role's.")
    expires_in_days: float | None = Field(default=None, gt=0, le=3650)


class TokenView(BaseModel):
    """A token as lists show it: never the token itself."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    token_id: UUID
    name: str
    prefix: str
    role: str
    project: str | None
    scopes: list[str] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class MadeToken(TokenView):
    """A new token. `token` is shown this once and kept nowhere."""

    token: str


class TokenList(BaseModel):
    """A page of tokens. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    tokens: list[TokenView]
    next_cursor: str | None = None
