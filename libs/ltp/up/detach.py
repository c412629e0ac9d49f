"""Starts the supervisor in a session of its own and waits for its one report."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Callable
from typing import cast

from ltp.core.errors import ErrorCode, LtpError
from ltp.up.logs import open_log, tail
from ltp.up.record import RunRecord
from ltp.up.services import python_module
from ltp.up.state import DataDir, prepare

LOOK_SECONDS = 0.1


def start_detached(data: DataDir, port: int | None, on_change: Callable[[RunRecord], None]) -> RunRecord:
    """Return once all is ready; raise what the supervisor reported otherwise.

    Interrupted while waiting, it takes the half-started supervisor down again.
    """
    prepare(data)
    reading, writing = os.pipe()
    argv = [*python_module("ltp.up"), "--data-dir", str(data.root), "--outcome-fd", str(writing)]
    argv += ["--port", str(port)] if port is not None else []
    with open_log(data.log("supervisor")) as log:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True
        )
    os.close(writing)
    try:
        outcome = _read_outcome(data, reading, child.pid, on_change)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    record = data.running()
    if outcome == "{}" and record and record.pid == child.pid:
        return record
    raise _failure(data, outcome, child.wait())


def _read_outcome(data: DataDir, pipe: int, pid: int, on_change: Callable[[RunRecord], None]) -> str:
    with os.fdopen(pipe) as stream:
        while not select.select([stream], [], [], LOOK_SECONDS)[0]:
            record = data.read_record()
            if record and record.pid == pid:
                on_change(record)
        return stream.read()


def _failure(data: DataDir, outcome: str, exit_code: int) -> LtpError:
    with contextlib.suppress(ValueError, KeyError):
        told = cast(dict[str, str], json.loads(outcome))
        return LtpError(ErrorCode(told["code"]), told["message"], told["hint"])
    if exit_code == 0:
        return LtpError(ErrorCode.START_FAILED, "It was stopped before all was ready.", "Start again with `ltp up`.")
    log = data.log("supervisor")
    return LtpError(
        ErrorCode.START_FAILED,
        f"The supervisor ended with exit code {exit_code} and no report. The end of {log}:\n{tail(log)}",
        "Mend what the log says, then run `ltp up` again.",
    )
