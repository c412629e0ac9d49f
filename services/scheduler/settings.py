"""The scheduler's settings."""

from __future__ import annotations

from ltp.service.settings import CommonSettings


class SchedulerSettings(CommonSettings):
    """LTP_* for what all share, LTP_SCHEDULER_* for its own."""

    scheduler_max_attempts: int = 3
    scheduler_poll_seconds: float = 1.0
