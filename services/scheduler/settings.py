"""The scheduler's settings."""

from __future__ import annotations

from pydantic import Field

from ltp.service.settings import CommonSettings


class SchedulerSettings(CommonSettings):
    """LTP_* for what all share, LTP_SCHEDULER_* for its own."""

    scheduler_poll_seconds: float = 1.0
    # A host that was silent for this long gets nothing new; hosts speak every 60 s.
    scheduler_host_silent_seconds: float = 180.0
    # A host that was silent for this long is given up: its jobs go on elsewhere. Long, since a healthy run must not be
    # doubled because the network was; an operator who knows better says `ltp host give-up HOST`.
    scheduler_host_lost_seconds: float = 3600.0
    # Done and cancelled work is deleted after this; dead work is kept.
    scheduler_work_retention_days: float = Field(default=30.0, gt=0)
