"""Keeps verl's further trackers (TensorBoard, MLflow, W&B) from ending a training: what one cannot take is said once and dropped.

Loaded by verl's own `VERL_USE_EXTERNAL_MODULES` where a recipe asks for a sink. The file of metrics stays strict: it is
what the platform reads.
"""

from __future__ import annotations

import logging
from typing import Any

from verl.utils import tracking

_OURS = frozenset({"file", "console"})


class GuardedTracking(tracking.Tracking):
    """verl's tracking, in which only our own loggers may raise."""

    def log(self, data: Any, step: int, backend: Any = None) -> None:
        """Give a line to every logger."""
        for name, logger in list(self.logger.items()):
            if backend is not None and name not in backend:
                continue
            try:
                logger.log(data=data, step=step)
            except Exception as error:
                if name in _OURS:
                    raise
                del self.logger[name]
                logging.getLogger(__name__).warning("%s is not written any more: %s", name, error)


tracking.Tracking = GuardedTracking  # pyright: ignore[reportPrivateImportUsage]
