"""The transaction in which an event takes effect: once, however often it is delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid5

from faststream import Context, Depends
from faststream.exceptions import AckMessage

from ltp.store.database import Database, Unit
from ltp.store.envelope import event_id_of

# Names events that another system published without a ce-id: stream and sequence identify them as well.
_FOREIGN = UUID("6f3a2f0e-6c1c-4f0c-9d55-3f6f6f1f7a11")


async def _unit_of_event(
    message: Annotated[Any, Context("message")], database: Annotated[Database, Context("database")]
) -> AsyncIterator[Unit]:
    raw = message.raw_message
    metadata = raw.metadata
    event_id = event_id_of(message.headers or {}) or uuid5(_FOREIGN, f"{metadata.stream}:{metadata.sequence.stream}")
    async with database.unit(cause=event_id) as unit:
        if not await unit.first_time(event_id, raw.subject):
            raise AckMessage
        yield unit


# A handler with a parameter of this type runs inside one transaction with the note that its event was seen.
InboxUnit = Annotated[Unit, Depends(_unit_of_event)]
