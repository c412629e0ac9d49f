"""Surgery's settings."""

from __future__ import annotations

import sys

from ltp.service.settings import CommonSettings


class SurgerySettings(CommonSettings):
    """LTP_* for what all share, LTP_SURGERY_* for its own."""

    # The interpreter that has torch; the service itself never imports it.
    surgery_python: str = sys.executable
