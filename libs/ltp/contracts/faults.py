"""What is wrong with input that is not as declared, in one line for a person: where, and what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

_MOST = 8


class Invalid(Protocol):
    """What pydantic and FastAPI raise when something is not as declared."""

    def errors(self) -> Sequence[Any]:
        """One entry a fault."""
        ...


def faults_of(error: Invalid) -> str:
    """Each fault with the place it is at, if it is at one; of many the first eight."""
    return "; ".join(_fault(each) for each in error.errors()[:_MOST])


def _fault(each: Any) -> str:
    place = ".".join(map(str, each["loc"]))
    said = str(each["msg"]).removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
