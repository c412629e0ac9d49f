"""The stop file: how a training process is asked to finish its step, save and leave, which verl has no way to."""

from __future__ import annotations

import os
from pathlib import Path


def stop_requested() -> bool:
    """Whether the file named by LTP_STOP_FILE exists."""
    path = os.environ.get("LTP_STOP_FILE")
    return path is not None and Path(path).exists()
