"""The one way to hear an event and to declare that one is said.

FastStream's defaults lose messages (one call, then gone) or storm (retries within milliseconds), and an existing durable
silently ignores a changed configuration. So every subscription gets its policy here and is reconciled at start.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faststream import AckPolicy
from faststream.nats import JStream, PullSub
from nats.js import JetStreamContext
from nats.js.api import AckPolicy as NatsAckPolicy
from nats.js.api import ConsumerConfig, DeliverPolicy

from ltp.bus.streams import EVENTS, TELEMETRY
from ltp.contracts.event import EVENT_SUBJECTS, TELEMETRY_SUBJECTS, Event

ACK_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Subscription:
    """A durable pull consumer of one service."""

    service: str
    stream: str
    subject: str
    durable: str
    in_order: bool = False

    def consumer(self) -> ConsumerConfig:
        """The consumer as JetStream should have it. Deliveries are counted by our middleware, not by `max_deliver`."""
        return ConsumerConfig(
            durable_name=self.durable,
            filter_subject=self.subject,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=NatsAckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            max_deliver=-1,
            # One at a time where order matters: the next message waits for the ack of the one before.
            max_ack_pending=1 if self.in_order else 64,
        )


# Every subscription declared by the services of this process: reconciled at start, read by the contract tests.
DECLARED: list[Subscription] = []


def heard_by(service: str, event: type[Event]) -> dict[str, Any]:
    """Arguments for `@router.subscriber`: `service` hears `event`, each with an effect once (`ltp.bus.inbox`)."""
    durable = f"{service}-{event.subject.removeprefix('ltp.').replace('.', '-')}"
    subscription = Subscription(service, EVENTS, event.subject, durable)
    return _arguments(subscription, title=event.__name__, description=(event.__doc__ or "").strip(), workers=8)


def heard_in_order_by(service: str, stream: str) -> dict[str, Any]:
    """Arguments for `@router.subscriber`: `service` hears a whole stream, one message after the other."""
    subject = {EVENTS: EVENT_SUBJECTS, TELEMETRY: TELEMETRY_SUBJECTS}[stream]
    subscription = Subscription(
        service, stream, subject, f"{service}-{stream.lower().replace('_', '-')}", in_order=True
    )
    return _arguments(subscription, title=f"All of {stream}", description=f"Every message of {stream}.", workers=None)


def said(event: type[Event]) -> dict[str, Any]:
    """Arguments for `router.publisher`: declares, for AsyncAPI and the tests, that the service says `event`.

    The saying itself goes through the outbox (`Unit.emit`), never through this publisher.
    """
    return {
        "subject": event.subject,
        "stream": JStream(EVENTS, declare=False),
        "schema": event,
        "title": event.__name__,
        "description": (event.__doc__ or "").strip(),
    }


def subscriptions_of(service: str) -> list[Subscription]:
    """What a service of this process hears."""
    return [subscription for subscription in DECLARED if subscription.service == service]


async def reconcile(js: JetStreamContext, service: str) -> None:
    """Create or update this service's consumers, since a bound durable keeps its old configuration."""
    for subscription in subscriptions_of(service):
        await js.add_consumer(subscription.stream, subscription.consumer())


def _arguments(subscription: Subscription, *, title: str, description: str, workers: int | None) -> dict[str, Any]:
    DECLARED.append(subscription)
    arguments: dict[str, Any] = {
        "subject": subscription.subject,
        "stream": JStream(subscription.stream, declare=False),
        "durable": subscription.durable,
        "config": subscription.consumer(),
        # A short request keeps shutdown quick; messages are delivered as they come, whatever this is.
        "pull_sub": PullSub(batch_size=8 if workers else 1, timeout=2.0),
        "ack_policy": AckPolicy.NACK_ON_ERROR,
        "title": title,
        "description": description,
    }
    if workers:
        # Without workers FastStream awaits the whole batch before it fetches again.
        arguments["max_workers"] = workers
    return arguments
