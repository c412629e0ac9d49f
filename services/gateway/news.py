"""Tells open streams that there is something new to read; what is new they read from the tables themselves."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

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


class NewsByKey:
    """News of many things, so that what is new of one wakes none of the others."""

    def __init__(self) -> None:
        self._news: WeakValueDictionary[str, News] = WeakValueDictionary()

    def of(self, key: str) -> News:
        """The news of one thing, for as long as somebody keeps it."""
        found = self._news.get(key)
        if found is None:
            found = self._news[key] = News()
        return found

    def tell(self, key: str) -> None:
        """Wake who waits for news of this key; of none: who waits for any."""
        for known in [key] if key else list(self._news):
            news = self._news.get(known)
            if news is not None:
                news.tell()
