"""What is known of one sample: the row, the answer or the reason there is none, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from ltp.contracts.evaluation_questions import Outcome
from ltp.core.recipe import content_hash


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


# Why a sample has no answer. `unreachable`, `rate_limited`, `server_error` and `timeout` were tried again first.
ErrorKind = Literal[
    "unreachable",
    "unauthorized",
    "model_not_found",
    "rate_limited",
    "timeout",
    "server_error",
    "context_overflow",
    "refused",
    "malformed",
    "unsupported",
]


@dataclass(frozen=True)
class Row:
    """A held-out row: what is asked, the reference answer, and the labels its slices are made of."""

    row_id: str
    prompt: tuple[Message, ...]
    answer: str | None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it took. `detail` holds log-probabilities or the turns of a conversation."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_seconds: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


# Keys of an answer's own detail; what stands beside them in a stored sample is the verdict's.
OF_THE_ANSWER = frozenset({"turns", "logprob", "tokens", "greedy"})


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    kind: ErrorKind
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a scorer says. `value` lies in 0..1 and is None where nothing can be said."""

    outcome: Outcome
    value: float | None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


def judged(value: bool | float, detail: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict of a scorer that gave a number: right from one half on."""
    number = min(1.0, max(0.0, float(value)))
    return Verdict("right" if number >= 0.5 else "wrong", number, detail or {})


@dataclass(frozen=True)
class Sample:
    """One answer to one row with its verdict, as it is stored."""

    row: Row
    index: int
    verdict: Verdict
    scorer: str
    answer: Answer | None = None
    failure: Failure | None = None
    answer_key: str | None = None
    cached: bool = False

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut off."""
        return self.answer is not None and self.answer.finish_reason == "length"


def answer_key(
    fingerprint: str, prompt: tuple[Message, ...], sampling: Mapping[str, Any], index: int, once: str
) -> str:
    """What an answer depends on, as a hash. `once` makes answers that were drawn at random an evaluation's own."""
    asked = {"model": fingerprint, "prompt": list(prompt), "sampling": dict(sampling), "index": index, "once": once}
    return content_hash(asked)
