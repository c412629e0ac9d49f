"""The scheduler's settings."""

from __future__ import annotations

from pydantic import Field

from ltp.service.settings import CommonSettings


class SchedulerSettings(CommonSettings):
    """LTP_* for what all share, LTP_SCHEDULER_* for its own."""

    scheduler_max_attempts: int = 3
    scheduler_poll_seconds: float = 1.0
    # Done and cancelled work is deleted after this; dead work is kept.
    scheduler_work_retention_days: float = Field(default=30.0, gt=0)
