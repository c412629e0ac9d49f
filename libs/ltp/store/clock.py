"""The two impure values that the stores hand out: now, and a new id."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID

from ltp.core.ids import uuid7


def now() -> datetime:
    """The current instant in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A new UUIDv7."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))
