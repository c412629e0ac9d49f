"""The streams and what they keep, in one table, and the code that makes the server agree with it."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from ltp.bus.permissions import FEED, FEED_SUBJECTS
from ltp.contracts.event import EVENT_SUBJECTS, TELEMETRY_SUBJECTS

EVENTS = "LTP_EVENTS"
TELEMETRY = "LTP_TELEMETRY"
DEAD = "LTP_DEAD"
DEAD_SUBJECTS = "ltp-dead.>"

_DAY = 86_400.0
FEED_SECONDS = 7 * _DAY

# Facts are kept a month, and can be refilled from the outboxes; telemetry is news of the hour; dead letters wait for a person.
STREAMS = (
    StreamConfig(
        name=EVENTS,
        subjects=[EVENT_SUBJECTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=30 * _DAY,
        discard=DiscardPolicy.OLD,
        # Longer than the relay's longest back-off, so that a publish repeated after an outage is dropped as a duplicate.
        duplicate_window=600.0,
    ),
    StreamConfig(
        name=TELEMETRY,
        subjects=[TELEMETRY_SUBJECTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=0.25 * _DAY,
        max_bytes=256 << 20,
        discard=DiscardPolicy.OLD,
        duplicate_window=600.0,
    ),
    # What subscribers read, each its project's part; filled by the gateway while there are any.
    StreamConfig(
        name=FEED,
        subjects=[FEED_SUBJECTS],
        storage=StorageType.FILE,
        max_age=FEED_SECONDS,
        max_bytes=2 << 30,
        discard=DiscardPolicy.OLD,
        duplicate_window=600.0,
    ),
    StreamConfig(name=DEAD, subjects=[DEAD_SUBJECTS], storage=StorageType.FILE, max_age=90 * _DAY),
)


async def ensure_streams(js: JetStreamContext) -> None:
    """Create the streams, or bring existing ones to this configuration. Safe to run from several processes at once."""
    for config in STREAMS:
        try:
            await js.stream_info(config.name or "")
        except NotFoundError:
            await js.add_stream(config)
        else:
            await js.update_stream(config)
