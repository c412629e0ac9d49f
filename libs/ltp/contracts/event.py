"""The base of every event and the one registry of subjects.

A subject is said once, in the class line; saying it twice, or naming a speaker that is no service, fails at import.
"""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

SERVICES = ("planner", "scheduler", "runner", "surgery", "dataset", "evaluator", "gateway")
EVENT_SUBJECTS = "ltp.*.*.*"
TELEMETRY_SUBJECTS = "ltp-telemetry.>"

_SUBJECT = re.compile(r"ltp\.[a-z]+\.v[1-9][0-9]*\.[a-z]+(-[a-z]+)*")

REGISTRY: dict[str, type[Event]] = {}


class Value(BaseModel):
    """A value inside an event: immutable, and deaf to fields that a newer speaker added."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), defer_build=True)


class Event(Value):
    """A fact in the past tense. `subject` is the CloudEvents type, the NATS subject and the schema's name."""

    subject: ClassVar[str]
    speaker: ClassVar[str]

    def __init_subclass__(cls, *, subject: str, speaker: str) -> None:
        super().__init_subclass__()
        if not _SUBJECT.fullmatch(subject):
            raise TypeError(f"{cls.__name__}: subject {subject!r} is not ltp.<noun>.v<N>.<past-participle>")
        if subject in REGISTRY:
            raise TypeError(f"{cls.__name__}: subject {subject!r} already belongs to {REGISTRY[subject].__name__}")
        if speaker not in SERVICES:
            raise TypeError(f"{cls.__name__}: {speaker!r} is not a service")
        cls.subject, cls.speaker = subject, speaker
        REGISTRY[subject] = cls
