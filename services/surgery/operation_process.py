"""The process that carries an operation out: started, listened to, stopped. The service itself never loads torch."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

_STOPPED = 3
_TICK_SECONDS = 1.0
# Lines carry one progress or one result with its proof.
_LINE_BYTES = 1 << 20

# Told how far it is, or None when nothing was said for a moment; answers whether the work is to stop.
Tell = Callable[[dict[str, Any] | None], Awaitable[bool]]


async def ask_process(python: str, verb: str, spec: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    """Run a short verb to its end. Raises the LtpError it reports."""
    process = await _start(python, verb, spec)
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate()
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    if process.returncode == 0:
        result: dict[str, Any] = json.loads(stdout.decode().strip().splitlines()[-1])["result"]
        return result
    raise _problem(stderr.decode(errors="replace"), process.returncode)


async def run_process(python: str, spec: dict[str, Any], tell: Tell, gpus: Sequence[int] = ()) -> dict[str, Any] | None:
    """Run an operation, which sees of the GPUs those only. Returns its result, or None when it was stopped.

    Raises the LtpError it reports.
    """
    process = await _start(python, "run", spec, {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))})
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(process.stderr.read())
    result: dict[str, Any] | None = None
    stopped = False
    try:
        while True:
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    line = await process.stdout.readline()
            except TimeoutError:
                line = None
            if line == b"":
                break
            message = json.loads(line) if line else {}
            result = message.get("result", result)
            if not stopped and await tell(message.get("progress")):
                stopped = True
                process.terminate()
        code = await process.wait()
    except BaseException:
        # Its standard input closes with us, which stops it; what is done is kept.
        if process.returncode is None:
            process.terminate()
            await asyncio.shield(process.wait())
        raise
    if code == 0 and result is not None:
        return result
    # A process that was still starting has no handler for the signal yet, and ends by it.
    if stopped or code == _STOPPED:
        return None
    raise _problem((await said).decode(errors="replace"), code)


async def _start(python: str, verb: str, spec: dict[str, Any], told: dict[str, str] | None = None) -> Process:
    argv, environment = (python, "-m", "ltp.tensors.operate", verb), os.environ | (told or {})
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_LINE_BYTES, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    await process.stdin.drain()
    return process


def _problem(stderr: str, code: int | None) -> LtpError:
    """The problem the process wrote as its last line, or what is known when it died without one."""
    lines = stderr.strip().splitlines()
    try:
        return Problem.model_validate_json(lines[-1]).error()
    except (IndexError, ValueError):
        said = lines[-1] if lines else "it said nothing"
        # Killed from outside, or a defect: worth another try, which goes on where this one was.
        return LtpError(
            ErrorCode.INTERNAL, f"The operation's process ended with code {code}: {said}", "See surgery's log."
        )
