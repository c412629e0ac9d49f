"""The dataset service's settings."""

from __future__ import annotations

from ltp.service.settings import CommonSettings


class DatasetSettings(CommonSettings):
    """LTP_*: nothing of its own yet."""
