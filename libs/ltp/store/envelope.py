"""CloudEvents 1.0 in NATS binary mode: the payload is the fact, everything about the telling stands in headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from opentelemetry import propagate

from ltp.contracts.event import Event
from ltp.contracts.numbers import refuse_huge
from ltp.store.acting import Acting


@dataclass(frozen=True)
class Message:
    """What goes on the wire: `id` is the JetStream message id, which drops a second publish inside the window."""

    id: str
    subject: str
    headers: dict[str, str]
    payload: bytes
    # Facts stay in the outbox after publishing; telemetry does not.
    keep: bool


def envelope(
    event: Event, *, event_id: UUID, at: datetime, about: str, cause: UUID | None, acting: Acting | None = None
) -> Message:
    """Wrap an event. `about` is the id of the noun (ce-subject), `cause` the id of the event that led here."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(event_id),
        "ce-type": event.subject,
        "ce-source": f"/{event.speaker}",
        "ce-subject": about,
        "ce-time": at.isoformat().replace("+00:00", "Z"),
        "Nats-Msg-Id": str(event_id),
        "content-type": "application/json",
    }
    if cause is not None:
        headers["ce-causationid"] = str(cause)
    if acting is not None:
        # A header holds one line of ASCII; names of actors and projects are that already.
        headers["ce-actor"] = acting.actor
        if acting.project is not None:
            headers["ce-project"] = acting.project
    propagate.inject(headers)
    return Message(str(event_id), event.subject, headers, refuse_huge(event.model_dump_json()).encode(), keep=True)


def event_id_of(headers: Mapping[str, str]) -> UUID | None:
    """The id of an event from its headers; None where another system published something without one."""
    try:
        return UUID(headers["ce-id"])
    except (KeyError, ValueError):
        return None
