"""Who may say and hear what on the bus: each service its own subjects, each subscriber its own part of the feed. Pure.

Subscribers do not read the streams of the services, where the events of all projects lie side by side. The gateway says every
event again on `ltp-feed.<project>.<type>`, so that a permission can name a project.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ltp.contracts import REGISTRY, SERVICES
from ltp.contracts.event import EVENT_SUBJECTS, TELEMETRY_SUBJECTS

FEED = "LTP_FEED"
FEED_SUBJECTS = "ltp-feed.>"
# What belongs to no project. No project can be called so.
_NOBODY = "_"
OPERATOR = "operator"
SYSTEM = "system"
# Who comes without credentials: hears the facts, says nothing, and sees no answers.
LISTENER = "listener"


@dataclass(frozen=True)
class BusUser:
    """One who may connect. `digest` is the bcrypt hash of the password, but for the listener."""

    name: str
    digest: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def service_permissions(service: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a service may publish and hear: it says its own facts, answers its own questions, and hears all facts."""
    if service == OPERATOR:
        return (">",), (">",)
    own = tuple(subject for subject, event in REGISTRY.items() if event.speaker == service)
    publish = (*own, "ltp-dead.>", "ltp-rpc.>", "_INBOX.>", "$JS.API.>", "$JS.ACK.>")
    if service == "runner":
        publish += (TELEMETRY_SUBJECTS,)
    if service == "scheduler":
        # It says dead letters again, which may be anybody's.
        publish = (EVENT_SUBJECTS, TELEMETRY_SUBJECTS, *(subject for subject in publish if subject not in own))
    if service == "gateway":
        publish += (FEED_SUBJECTS,)
    hear = ("ltp.>", TELEMETRY_SUBJECTS, "ltp-dead.>", f"ltp-rpc.{service}.>", "_INBOX.>")
    return publish, hear


def service_users(digests: dict[str, str]) -> list[BusUser]:
    """The services and the operator, by their passwords' hashes."""
    return [BusUser(name, digests[name], *service_permissions(name)) for name in (*SERVICES, OPERATOR)]


def listener(password: str) -> BusUser:
    """What `nats sub 'ltp.>'` is on the machine itself, where events are no secret unless the operator says so."""
    return BusUser(LISTENER, password, (), ("ltp.>",))


def subscriber(user: str, digest: str, project: str | None, subjects: Iterable[str]) -> BusUser:
    """A subscriber: it follows its subjects live, and takes from its own consumer, which it can neither make nor change."""
    publish = (
        f"$JS.API.CONSUMER.MSG.NEXT.{FEED}.{user}",
        f"$JS.API.CONSUMER.INFO.{FEED}.{user}",
        f"$JS.ACK.{FEED}.{user}.>",
    )
    return BusUser(user, digest, publish, (*feed_patterns(project, subjects), f"{inbox_prefix(user)}.>"))


def inbox_prefix(user: str) -> str:
    """Where a subscriber's answers come: a place of its own, so that it cannot read those of others."""
    return f"_INBOX_{user}"


def feed_subject(project: str | None, subject: str) -> str:
    """Where an event is said for subscribers."""
    return f"ltp-feed.{_NOBODY if project is None else _token(project)}.{subject}"


def feed_patterns(project: str | None, subjects: Iterable[str]) -> list[str]:
    """What a subscriber of a project (None: of all) hears."""
    whose = "*" if project is None else _token(project)
    return [f"ltp-feed.{whose}.{subject}" for subject in subjects]


def apart(subjects: Iterable[str]) -> list[str]:
    """Patterns as one consumer may have them: what another holds is left out. Raises ValueError where two overlap in part."""
    patterns = list(dict.fromkeys(subjects))
    kept = [one for one in patterns if not any(_holds(other, one) for other in patterns if other != one)]
    for number, one in enumerate(kept):
        for other in kept[:number]:
            if _meet(one.split("."), other.split(".")):
                raise ValueError(f"{other} and {one} overlap, and neither holds the other")
    return kept


def _holds(pattern: str, other: str) -> bool:
    """Whether every subject of `other` is one of `pattern`."""
    theirs = other.split(".")
    for place, part in enumerate(pattern.split(".")):
        if part == ">":
            return len(theirs) > place
        if place >= len(theirs) or theirs[place] == ">" or part not in {"*", theirs[place]}:
            return False
    return len(theirs) == len(pattern.split("."))


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some subject fits both."""
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if "*" not in (mine, theirs) and mine != theirs:
            return False
    return len(one) == len(other)


def rendered(users: Sequence[BusUser]) -> str:
    """The users as NATS configuration."""
    lines = [
        f"  {{user: {_text(user.name)}, password: {_text(user.digest)}, permissions: "
        f"{{publish: {_allowed(user.publish)}, subscribe: {_allowed(user.subscribe)}}}}}"
        for user in users
    ]
    return "\n".join(["users = [", *lines, "]", ""])


def _token(project: str) -> str:
    # A project's name may hold dots, which would be tokens of their own; it never holds a tilde.
    return project.replace(".", "~")


def _allowed(subjects: Iterable[str]) -> str:
    # An empty list of what is allowed would allow all.
    return f"{{allow: {_texts(subjects)}}}" if subjects else '{deny: ">"}'


def _texts(values: Iterable[str]) -> str:
    return "[" + ", ".join(map(_text, values)) + "]"


def _text(value: str) -> str:
    return json.dumps(value)
