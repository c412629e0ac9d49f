"""Clears what a supervisor that was killed has left running, so that the next one starts on a quiet directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from ltp.up import procfs
from ltp.up.record import RunRecord
from ltp.up.state import DataDir

GOING_SECONDS = 2.0  # the kernel has signalled the recorded processes already
POSTGRES = "postgres"  # its own preparation waits for it, far more patiently: it has data to write


async def clear_leftovers(data: DataDir) -> None:
    """End the processes of the last record; call with the directory claimed, so that no supervisor owns them."""
    record = data.read_record()
    if record is None:
        return
    deadline = time.monotonic() + GOING_SECONDS
    while (left := _left(data, record)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    data.run_file.unlink(missing_ok=True)


def _left(data: DataDir, record: RunRecord) -> list[int]:
    """Find the recorded processes and those they left in their sessions.

    A member of a session counts when its leader is the recorded process, or is gone and the member got this data
    directory: the pid of a long-gone leader may by now lead a stranger's session. A training run has a session of its
    own, and so is never found here.
    """
    recorded = {entry.pid: entry.start_ticks for entry in record.processes if entry.pid and entry.name != POSTGRES}
    members = [process for process in procfs.processes() if process.session in recorded]
    return [
        process.pid
        for process in members
        if procfs.is_alive(process.session, recorded[process.session])
        or (procfs.stat(process.session) is None and procfs.has_environment(process.pid, f"LTP_DATA_DIR={data.root}"))
    ]
