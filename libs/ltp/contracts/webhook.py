"""Webhooks: events carried over HTTP to systems that do not speak NATS, and what became of each delivery."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from ltp.contracts.event import Event
from ltp.contracts.values import Name

Mode = Literal["structured", "binary"]
DeliveryState = Literal["pending", "delivered", "dead"]
# A pattern of NATS: `*` is one token, `>` all that follow.
SubjectPattern = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^(ltp|[*])([.]([a-z0-9-]+|[*]))*([.]>)?$|^>$")
]
Url = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^https?://[!-~]+$")]
Subjects = Annotated[list[SubjectPattern], Field(min_length=1, max_length=50)]
MOST_WEBHOOKS = 100


class WebhookDisabled(Event, subject="ltp.webhook.v1.disabled", speaker="gateway"):
    """A webhook's receiver failed for so long, or said so plainly (410), that nothing is sent to it until somebody enables it."""

    webhook_id: UUID
    name: str
    reason: str


class NewWebhook(BaseModel):
    """Where events go, and which. What it may see is its project's; null is all projects, for a maker who may see all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": "https://example.com/hooks", "subjects": ["ltp.job.v1.*"]}]},
    )

    url: Url = Field(description="http or https, without user or password.")
    name: Name = "webhook"
    subjects: Subjects = Field(default=["ltp.>"], description="Event types, `*` for one token, `>` for the rest.")
    about: str | None = Field(default=None, max_length=200, description="Only events about this noun, by its id.")
    mode: Mode = Field(default="structured", description="How CloudEvents are written into HTTP.")
    project: Name | None = None
    after: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="Send what came after this sequence number too. Default: only what comes from now on."
    )


class WebhookChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": True}]})

    url: Url | None = None
    name: Name | None = None
    subjects: Subjects | None = None
    about: str | None = Field(default=None, max_length=200)
    mode: Mode | None = None
    enabled: bool | None = Field(default=None, description="True starts it again where it stopped.")


class WebhookView(BaseModel):
    """A webhook, without its secret."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    webhook_id: UUID
    name: str
    url: str
    project: str | None
    subjects: list[str]
    about: str | None
    mode: Mode
    enabled: bool
    # Why it is not.
    reason: str | None
    # Everything up to this sequence number was put in for delivery.
    position: int
    failing_since: datetime | None
    created_by: str
    created_at: datetime
    changed_at: datetime


class MadeWebhook(WebhookView):
    """A new webhook, or one with a new secret. `secret` is shown this once and kept encrypted."""

    secret: str


class WebhookList(BaseModel):
    """A page of webhooks. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    webhooks: list[WebhookView]
    next_cursor: str | None = None


class DeliveryView(BaseModel):
    """One event on its way to one receiver. `event_id` is the same in every try and every replay."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    delivery_id: int
    seq: int
    event_id: UUID
    subject: str
    state: DeliveryState
    attempts: int
    # How the receiver answered the last time; null when it did not.
    status: int | None
    problem: str | None
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveryPage(BaseModel):
    """Deliveries, newest first. Pass `next_cursor` as `cursor` to read on."""

    deliveries: list[DeliveryView]
    next_cursor: int | None


class ReplayWish(BaseModel):
    """Send again: exactly one of the four."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"after": 1200}, {"dead": True}]})

    after: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="All after a sequence number."
    )
    since: AwareDatetime | None = Field(default=None, description="All from this time on.")
    dead: bool = Field(default=False, description="All that were given up.")
    delivery_id: Annotated[int, Field(ge=1, lt=2**63)] | None = Field(default=None, description="This one.")

    def chosen(self) -> int:
        """How many ways of saying what were used."""
        return sum((self.after is not None, self.since is not None, self.dead, self.delivery_id is not None))


class ReplayAnswer(BaseModel):
    """How many deliveries were put in again; null where they are put in one after the other from a position."""

    deliveries: int | None
    position: int


class TrialAnswer(BaseModel):
    """What came of one test event sent at once."""

    delivered: bool
    status: int | None
    problem: str | None
    seconds: float
