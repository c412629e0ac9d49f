"""From a recipe and its plan to a process: what every verl version's table produces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LaunchSpec:
    """One training process, ready to start; the fields are the keys of launch.json."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    metrics_path: str
    stop_file: str
    time_limit_seconds: float | None = None
    grace_seconds: float = 60.0
    # What the launcher watches by; `launch.Limits` says what each means.
    stall_seconds: float = 600.0
    stall_steps: float = 5.0
    hang_seconds: float | None = None
    checkpoint_bytes: int = 0
    kept_bytes: int = 0
