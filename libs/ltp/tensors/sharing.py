"""A lock that many may hold together, or one alone: what needs all of a device waits until the others are off it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Sharing:
    """Who comes together waits while somebody wants to be alone, so that this one is not passed over for ever."""

    def __init__(self) -> None:
        self._changed, self._together, self._alone, self._wishes = Condition(), 0, False, 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._wishes)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With nobody else."""
        with self._changed:
            self._wishes += 1
            self._changed.wait_for(lambda: not self._alone and not self._together)
            self._wishes -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
