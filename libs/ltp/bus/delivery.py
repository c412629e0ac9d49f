"""What happens to a message whose handler failed: wait and try again, or set it aside with its evidence.

Trouble with our own infrastructure is retried for ever, since it is not the message's fault. Anything else is tried five
times with growing pauses and then moved to the dead letters; a message that cannot be parsed is moved there at once.
"""

# A FastStream message of any broker reaches us as Any.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from faststream import BaseMiddleware
from faststream.exceptions import HandlerException, NackMessage, RejectMessage
from faststream.nats import NatsBroker
from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError

from ltp.contracts.event import REGISTRY
from ltp.telemetry import metrics

BACKOFF_SECONDS = (1.0, 5.0, 30.0, 120.0)
_NOT_YET_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_NOT_YET_DELIVERIES = 60


class NotYetError(Exception):
    """The event came before one it rests on. Tried again soon, for about five minutes."""


_INFRASTRUCTURE = (OSError, OperationalError, InterfaceError, asyncio.TimeoutError)


def delay_after(error: Exception, deliveries: int) -> float | None:
    """Seconds until the next delivery, or None when the message belongs with the dead letters."""
    if isinstance(error, ValidationError):
        return None
    if isinstance(error, NotYetError):
        last = min(deliveries, len(_NOT_YET_SECONDS)) - 1
        return _NOT_YET_SECONDS[last] if deliveries < _NOT_YET_DELIVERIES else None
    if isinstance(error, _INFRASTRUCTURE):
        return BACKOFF_SECONDS[min(deliveries, len(BACKOFF_SECONDS)) - 1]
    return BACKOFF_SECONDS[deliveries - 1] if deliveries <= len(BACKOFF_SECONDS) else None


def delivery_middleware(broker: Callable[[], NatsBroker], service: str) -> type[BaseMiddleware]:
    """The middleware, bound to the broker that publishes dead letters, and to the service in whose name it counts."""

    class Delivery(BaseMiddleware):
        async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
            subject = subject_label(msg.raw_message.subject)
            started = time.perf_counter()
            headers = msg.headers or {}
            _note_lag(service, subject, headers.get("ce-time"))
            known = {"subject": subject, "event_id": headers.get("ce-id"), "about": headers.get("ce-subject")}
            try:
                with structlog.contextvars.bound_contextvars(**{k: v for k, v in known.items() if v is not None}):
                    return await call_next(msg)
            except (HandlerException, asyncio.CancelledError):
                raise
            except Exception as error:
                metadata = getattr(msg.raw_message, "metadata", None) if msg.raw_message.reply else None
                if metadata is None:
                    raise  # Core NATS: nobody redelivers, the caller of a request sees its own time-out.
                dead = delay_after(error, metadata.num_delivered) is None
                if not isinstance(error, NotYetError) or dead:
                    metrics.HANDLER_FAILURES.labels(service, subject, "dead" if dead else "retried").inc()
                await _settle(broker(), msg, metadata, error)
            finally:
                metrics.HANDLING.labels(service, subject).observe(time.perf_counter() - started)

    return Delivery


def subject_label(subject: str) -> str:
    """A subject as a metric's label: what is no event of ours (telemetry of a run, a question, anybody's) by its first words."""
    if subject in REGISTRY:
        return subject
    head = subject.split(".")
    return ".".join(head[:3]) if head[0] == "ltp-rpc" else head[0] if head[0] == "ltp-telemetry" else "other"


def _note_lag(service: str, subject: str, said_at: str | None) -> None:
    if said_at is None:
        return
    try:
        lag = (datetime.now(UTC) - datetime.fromisoformat(said_at)).total_seconds()
    except (ValueError, TypeError):
        return  # Said by another system, in its own way.
    metrics.EVENT_LAG.labels(service, subject).observe(max(0.0, lag))


async def _settle(broker: NatsBroker, msg: Any, metadata: Any, error: Exception) -> None:
    deliveries = metadata.num_delivered
    delay = delay_after(error, deliveries)
    log = structlog.get_logger().bind(subject=msg.raw_message.subject, deliveries=deliveries, error=repr(error)[:300])
    if delay is not None:
        if not isinstance(error, NotYetError):
            log.warning("handler failed, will be tried again", delay_seconds=delay)
        raise NackMessage(delay=delay) from error
    headers = {key: str(value) for key, value in (msg.headers or {}).items() if not key.startswith("Nats-")}
    headers |= {
        "Nats-Msg-Id": f"dead-{metadata.consumer}-{metadata.sequence.stream}",
        "ltp-error": repr(error)[:500].replace("\n", " "),
        "ltp-deliveries": str(deliveries),
        "ltp-subject": msg.raw_message.subject,
    }
    await broker.publish(
        msg.body, f"ltp-dead.{metadata.stream}.{metadata.consumer}", stream="LTP_DEAD", headers=headers
    )
    log.error("message moved to the dead letters", consumer=metadata.consumer)
    # Terminated only after the dead letter was acknowledged: never lost in between.
    raise RejectMessage from error
