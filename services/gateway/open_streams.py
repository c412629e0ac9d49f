"""How many streams may be open at once, of one token and in all: who would be one too many is told to come back later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ltp.core.errors import ErrorCode, LtpError
from ltp.telemetry.metrics import counter, gauge

Kind = Literal["http", "websocket"]
OPEN = gauge(
    "ltp_streams_open", "Streams that callers follow now, over HTTP (server-sent events) or a WebSocket.", "kind"
)
REFUSED = counter("ltp_streams_refused_total", "Streams refused because too many were open.", "most_of")


@dataclass
class OpenStreams:
    """Those of this process."""

    most_of_one: int
    most: int
    _of: Counter[str] = field(default_factory=Counter[str])

    @contextmanager
    def place(self, token: str, kind: Kind) -> Iterator[None]:
        """Hold a place for the length of the block. Raises RATE_LIMITED where there is none."""
        self._refuse("token", self._of[token], self.most_of_one, "Your token has")
        self._refuse("gateway", self._of.total(), self.most, "This gateway has")
        self._of[token] += 1
        OPEN.labels(kind).inc()
        try:
            yield
        finally:
            self._of[token] -= 1
            self._of += Counter()  # What is at nought is forgotten: tokens come and go.
            OPEN.labels(kind).dec()

    def _refuse(self, whose: str, held: int, most: int, who: str) -> None:
        if held < most:
            return
        REFUSED.labels(whose).inc()
        hint = "Close one, follow several things over one WebSocket (/api/v1/events/ws), or come back later."
        raise LtpError(ErrorCode.RATE_LIMITED, f"{who} {held} streams open, and {most} is the most.", hint)
