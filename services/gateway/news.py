"""Tells open streams that there is something new to read; what is new they read from the tables themselves."""

from __future__ import annotations

import asyncio

from ltp.store.patience import wait_at_most

NEWS_CHANNEL = "ltp_gateway_news"
# A stream looks again after this long even when no news was heard.
_PATIENCE_SECONDS = 2.0


class News:
    """One per process. A stream takes a ticket before it reads, so that nothing told in between is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake everyone who holds a ticket."""
        self._event.set()
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """Set at the next news."""
        return self._event

    @staticmethod
    async def wait(ticket: asyncio.Event) -> None:
        """Return at the news or after a while."""
        await wait_at_most(ticket, _PATIENCE_SECONDS)
