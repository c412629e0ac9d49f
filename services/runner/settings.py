"""The runner's settings."""

from __future__ import annotations

import socket
import sys

from ltp.service.settings import CommonSettings


class RunnerSettings(CommonSettings):
    """LTP_* for what all share, LTP_RUNNER_* for its own."""

    # The interpreter of the training environment; the runner itself needs no torch.
    runner_python: str = sys.executable
    runner_poll_seconds: float = 0.5
    runner_host_seen_seconds: float = 60.0
    runner_sweep_seconds: float = 30.0
    # No metrics for so long, and for five steps: the run is marked stalled.
    runner_stall_seconds: float = 600.0
    # Keep this host's name stable across restarts; left out, the machine's name is taken.
    runner_host_name: str | None = None

    def host_id(self) -> str:
        """The name under which this host is known to the scheduler."""
        return self.runner_host_name or socket.gethostname()
