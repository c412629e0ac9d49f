"""Who may do what: roles, scopes, and tokens, of which only the digest is kept. Pure but for the drawing of a token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Role = Literal["admin", "manager", "user", "service"]
RANK: dict[Role, int] = {"admin": 3, "manager": 2, "user": 1, "service": 0}
DEFAULT_PROJECT = "default"

# What belongs to projects: a user works with it.
_WORK = ("jobs", "datasets", "evaluations", "operations", "pipelines", "schedules", "models", "metrics")
# What a project's manager looks after, and what is the platform's own.
_CARE = ("tokens", "secrets", "webhooks", "accounts")
_PLATFORM = ("hosts", "platform", "settings")
NOUNS = (*_WORK, *_CARE, *_PLATFORM, "work", "events", "audit")
SCOPES = frozenset(f"{noun}:{verb}" for noun in NOUNS for verb in ("read", "write"))


def _of(nouns: Iterable[str], *verbs: str) -> frozenset[str]:
    return frozenset(f"{noun}:{verb}" for noun in nouns for verb in verbs)


_USER = _of(_WORK, "read", "write") | _of(("work",), "read", "write") | _of(("events", *_PLATFORM), "read")
GRANTS: dict[Role, frozenset[str]] = {
    "admin": SCOPES,
    "manager": _USER | _of(_CARE, "read", "write") | _of(("audit",), "read"),
    "user": _USER,
    # A machine that reports and listens; more only where its token says so.
    "service": _of(("metrics",), "read", "write") | _of(("jobs", "events"), "read"),
}
# What a service's token may be given at most.
_SERVICE_MOST = _USER


@dataclass(frozen=True)
class Principal:
    """Who a token speaks for. `project` None may see and touch every project."""

    token_id: UUID | None
    name: str
    role: Role
    project: str | None
    scopes: frozenset[str]

    def may(self, scope: str | None) -> bool:
        """None is needed for what everybody with a token may do."""
        return scope is None or scope in self.scopes

    def acts_in(self, asked: str | None = None) -> str:
        """The project of what it makes."""
        return self.project or asked or DEFAULT_PROJECT


def effective(role: Role, scopes: Iterable[str] | None) -> frozenset[str]:
    """What a token may do: all its role grants, or the part of it that its scopes name."""
    if scopes is None:
        return GRANTS[role]
    most = _SERVICE_MOST if role == "service" else GRANTS[role]
    return most & frozenset(scopes)


def excess(maker: Principal, role: Role, project: str | None, scopes: Iterable[str] | None) -> str | None:
    """Why `maker` may not give out such a token; None when it may. Nobody gives away more than they have."""
    if unknown := sorted(set(scopes or ()) - SCOPES):
        return f"{unknown[0]!r} is no scope"
    if RANK[role] > RANK[maker.role]:
        return f"a {maker.role} cannot make a token of role {role}"
    if maker.project is not None and project != maker.project:
        return f"a token of project {maker.project} cannot make one for {project or 'all projects'}"
    if beyond := sorted(effective(role, scopes) - maker.scopes):
        return f"the maker does not have {beyond[0]} itself"
    return None


def new_token() -> tuple[str, str]:
    """A token and the prefix by which people recognise it in lists."""
    prefix = secrets.token_hex(4)
    return f"ltp_{prefix}_{secrets.token_urlsafe(32)}", f"ltp_{prefix}"


def digest_of(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so a plain SHA-256 cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def prefix_of(token: str) -> str:
    """The part of a token that may be shown."""
    return token[:12] if token.startswith("ltp_") else token[:4] + "…"
