"""The stop file: how the platform asks a training process to finish its step, save and leave (verl has no such request)."""

from __future__ import annotations

import os
from pathlib import Path


def stop_requested() -> bool:
    """Whether the file named by LTP_STOP_FILE exists."""
    path = os.environ.get("LTP_STOP_FILE")
    return path is not None and Path(path).exists()
