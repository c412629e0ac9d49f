"""The planner's settings."""

from __future__ import annotations

from ltp.service.settings import CommonSettings


class PlannerSettings(CommonSettings):
    """LTP_*: nothing of its own yet."""
