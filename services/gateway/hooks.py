"""What happens in every transaction of the gateway before it commits: keys are claimed, nouns get their owner, and there is an audit."""

from __future__ import annotations

from dataclasses import dataclass

from ltp.store.acting import ACTING
from ltp.store.database import Unit
from services.gateway import repeats
from services.gateway.door import audit_of
from services.gateway.walls import Walls


@dataclass(frozen=True)
class Commit:
    """Called with each unit (`Database.before_commit`)."""

    walls: Walls

    async def __call__(self, unit: Unit) -> None:
        await repeats.claim(unit)
        if not unit.said:
            return
        await self.walls.note(unit)
        acting = ACTING.get()
        if acting is not None and acting.cause is not None and not acting.audited and not _is_audit(unit):
            unit.emit(audit_of(acting, "done"), about=acting.request_id, event_id=acting.cause)
            acting.audited = True


def _is_audit(unit: Unit) -> bool:
    return any(event.subject == "ltp.audit.v1.recorded" for event in unit.said)
