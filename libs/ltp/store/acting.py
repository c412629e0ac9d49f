"""On whose behalf the code at hand acts: facts it says carry the actor, the project, and the request as their cause."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID


@dataclass
class Acting:
    """One request, or one command of a schedule or pipeline."""

    actor: str
    project: str | None
    # The audit event of the request: what the request says names it as its cause.
    cause: UUID | None = None
    method: str = ""
    path: str = ""
    request_id: str = ""
    role: str = ""
    token_id: UUID | None = None
    # An administrator who named no project looks for names in all of them.
    everywhere: bool = False
    # Whether the audit event was written in a transaction of the request.
    audited: bool = field(default=False, compare=False)


def acting_project() -> str:
    """The project of what is made."""
    acting = ACTING.get()
    return (acting.project if acting else None) or "default"


def sought_in() -> str | None:
    """The project in which a name is looked for; None for all of them."""
    acting = ACTING.get()
    return None if acting is None or acting.everywhere else acting.project


ACTING: ContextVar[Acting | None] = ContextVar("ltp_acting", default=None)
