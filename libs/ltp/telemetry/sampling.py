"""Which traces are kept: all in ordinary use, and of a flood so many a second, so that tracing costs what it cost before the flood."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

# More kinds of beginnings than this are no kinds but ids: they share one allowance.
_MOST_KINDS = 200


@dataclass
class _Allowance:
    left: float
    at: float


class PerSecond(Sampler):
    """At most `rate` traces a second of each name they begin with (`GET` cannot crowd out `POST`); one second's worth may come at once.

    A token bucket of our own: it stands on the path of every piece of work, where a library's lock and clock would be most of its cost.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self._most = max(1.0, rate)
        self._allowances: dict[str, _Allowance] = {}

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Keep it while its kind has an allowance left."""
        now, key = self.clock(), name if len(self._allowances) < _MOST_KINDS or name in self._allowances else ""
        mine = self._allowances.setdefault(key, _Allowance(self._most, now))
        mine.left, mine.at = min(self._most, mine.left + (now - mine.at) * self.rate), now
        if mine.left < 1:
            return SamplingResult(Decision.DROP)
        mine.left -= 1
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        """How it is called in logs."""
        return f"PerSecond{{{self.rate}}}"


def whole_traces(rate: float) -> Sampler:
    """What follows from a kept trace is kept, here and in other processes; beginnings by `PerSecond`."""
    return ParentBased(PerSecond(rate))
