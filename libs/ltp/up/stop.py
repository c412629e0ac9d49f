"""Stops a running platform from outside: asks its supervisor to end, and waits until it has."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from ltp.core.errors import ErrorCode, LtpError
from ltp.up.leftovers import clear_leftovers
from ltp.up.record import RunRecord
from ltp.up.state import DataDir, claim, prepare

STOP_SECONDS = 60.0  # two rounds of stopping with a grace of 10 s each, and room for a slow disk
LOOK_SECONDS = 0.05


def stop_platform(data: DataDir) -> RunRecord | None:
    """Stop what runs on the directory and return its record; None when nothing ran.

    After a supervisor that was killed, end what it may have left.
    """
    record = data.running()
    if record is None:
        if data.read_record():
            _clear(data)
        return None
    try:
        os.kill(record.pid, signal.SIGTERM)
    except ProcessLookupError:
        return record
    except PermissionError as error:
        raise LtpError(
            ErrorCode.UNAUTHENTICATED,
            f"The supervisor (pid {record.pid}) belongs to another user.",
            "Run `ltp down` as the user who ran `ltp up`.",
        ) from error
    _wait(record)
    return record


def _wait(record: RunRecord) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while record.alive:
        if time.monotonic() > deadline:
            raise LtpError(
                ErrorCode.CONFLICT,
                f"The supervisor (pid {record.pid}) has not ended within {STOP_SECONDS:.0f} s.",
                f"See DATA/logs/supervisor.log; `kill -9 {record.pid}` ends it, and its processes with it.",
            )
        time.sleep(LOOK_SECONDS)


def _clear(data: DataDir) -> None:
    prepare(data)
    with claim(data):
        asyncio.run(clear_leftovers(data))
