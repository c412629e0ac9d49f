"""The runner's settings."""

from __future__ import annotations

import sys

from ltp.service.settings import CommonSettings


class RunnerSettings(CommonSettings):
    """LTP_* for what all share, LTP_RUNNER_* for its own."""

    # The interpreter of the training environment; the runner itself needs no torch.
    runner_python: str = sys.executable
    runner_poll_seconds: float = 0.5
    runner_host_seen_seconds: float = 60.0
    # Keep this host's name stable across restarts; left out, the machine's name is taken.
    runner_host_name: str | None = None
