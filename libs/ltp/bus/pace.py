"""A pause after each failed fetch, so that a bus that is gone for good costs a look a second and not a processor.

FastStream fetches in a loop that goes on at once when the connection is closed, and starts a loop that failed again at once.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import time
from typing import Any

from faststream.nats import NatsBroker
from nats.js.client import JetStreamContext

_PAUSE_SECONDS = 1.0


def pace(broker: NatsBroker) -> None:
    """Give every fetch of a started broker its pause."""
    for subscriber in broker.subscribers:
        subscription = getattr(subscriber, "subscription", None)
        if isinstance(subscription, JetStreamContext.PullSubscription):
            _pace(subscription)


def _pace(subscription: Any) -> None:
    fetch = subscription.fetch

    async def patient(*args: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return await fetch(*args, **options)
        except Exception:
            # One that waited for messages in vain took longer than this anyway.
            await asyncio.sleep(max(0.0, began + _PAUSE_SECONDS - time.monotonic()))
            raise

    subscription.fetch = patient
