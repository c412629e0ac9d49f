"""Lets the launcher see what each process of the training does: SIGUSR1 writes the stacks of all its threads to a file.

verl loads this module in every one of its processes. The file's existence tells the launcher that the process catches
the signal; to any other process the signal would be the end.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress
from pathlib import Path


def register() -> None:
    """Catch the signal in this process, where the launcher asked for it by making the folder."""
    attempt = os.environ.get("LTP_ATTEMPT")
    if attempt is None:
        return
    # A host of a cluster that does not share the run's directory has no folder, and its launcher sees none of this.
    with suppress(OSError):
        file = Path(attempt, "stacks", f"{os.getpid()}.txt").open("a")  # noqa: SIM115 - open as long as the process
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


register()
