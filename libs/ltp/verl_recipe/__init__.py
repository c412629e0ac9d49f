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
