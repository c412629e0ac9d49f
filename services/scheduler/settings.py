"""The scheduler's settings."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from ltp.service.settings import CommonSettings


class SchedulerSettings(CommonSettings):
    """LTP_* for what all share, LTP_SCHEDULER_* for its own."""

    model_config = SettingsConfigDict(env_prefix="LTP_", extra="ignore", protected_namespaces=())

    scheduler_max_attempts: int = 3
    scheduler_poll_seconds: float = 1.0
