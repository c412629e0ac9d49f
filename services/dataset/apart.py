"""Heavy work in a process of its own: the service goes on answering, memory goes back, and the work can be ended at once.

Processes are forked from a small server that has the libraries loaded (`multiprocessing`'s forkserver), so that one
starts in milliseconds. Each ends with the service, however that ends.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running
from typing import Any, TypeVar

import structlog

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

T = TypeVar("T")
Progress = Callable[[float], None]
Note = Callable[[float], Awaitable[None]]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["services.dataset.reading", "services.dataset.export", "services.dataset.dedup.tasks"])
# A share of progress below this is not worth a message.
_STEP = 0.02
# Searches and answers come before.
_NICE = 5


async def apart(
    work: Callable[..., T], *given: Any, cancelled: asyncio.Event | None = None, note: Note | None = None
) -> T:
    """What `work(*given)` returns, computed in another process; `work` is a function of a module, and all is pickled.

    With `note`, `work` is also given `progress`, to be called with the share that is done, which `note` is told.
    Raises what `work` raises as LtpError, CANCELLED once `cancelled` is set, INTERNAL (so that the work is tried again)
    when the process was killed. The process is gone when this returns or raises.
    """
    receiving, sending = _context.Pipe(duplex=False)
    process = _context.Process(target=_do, args=(sending, work, given, note is not None), daemon=True)
    loop = asyncio.get_running_loop()
    # A thread of its own: those of `to_thread` are few, and this one waits as long as the work takes.
    thread = ThreadPoolExecutor(1)
    started = loop.run_in_executor(thread, _start, process, sending)
    try:
        await asyncio.shield(started)
        ended = asyncio.ensure_future(loop.run_in_executor(thread, _listen, receiving, loop, note))
        message = await _ended_or_cancelled(ended, cancelled)
    finally:
        await asyncio.wait([started])
        # Its end is the end of the pipe, and so of the thread that listens.
        process.kill()
        await asyncio.to_thread(process.join)
        thread.shutdown(wait=False)
    return _result(message, process.exitcode)


def _start(process: Any, sending: Connection) -> None:
    process.start()
    # The pipe must end with the process: its other end here is closed.
    sending.close()


async def _ended_or_cancelled(ended: asyncio.Future[Any], cancelled: asyncio.Event | None) -> Any:
    if cancelled is None:
        return await ended
    asked = asyncio.create_task(cancelled.wait())
    try:
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if not ended.done():
        raise LtpError(ErrorCode.CANCELLED, "The work was cancelled.", "Nothing of it was kept.")
    return ended.result()


def _listen(receiving: Connection, loop: asyncio.AbstractEventLoop, note: Note | None) -> tuple[str, Any] | None:
    """The last message; None when the process ended without one. Runs in a thread."""
    while True:
        try:
            kind, value = receiving.recv()
        except (EOFError, OSError):
            return None
        if kind != "progress":
            return kind, value
        if note is not None:
            asyncio.run_coroutine_threadsafe(_noted(note, value), loop)


async def _noted(note: Note, share: float) -> None:
    try:
        await note(share)
    except Exception as error:
        # Progress is for those who watch; the work does not fail for it.
        structlog.get_logger().info("progress not noted", error=type(error).__name__)


def _result(message: tuple[str, Any] | None, code: int | None) -> Any:
    match message:
        case ("done", value):
            return value
        case ("problem", problem):
            raise Problem.model_validate(problem).error()
        case ("error", said):
            structlog.get_logger().error("work failed unexpectedly", traceback=said)
            raise RuntimeError(said.strip().splitlines()[-1])
        case _:
            what = f"The process of this work ended ({code}): killed, or out of memory."
            raise LtpError(ErrorCode.INTERNAL, what, "It is tried again; the service's log may say more.")


def _do(sending: Connection, work: Callable[..., Any], given: tuple[Any, ...], tells: bool) -> None:
    """In the other process: do the work and say how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICE)
    try:
        value = work(*given, progress=_Teller(sending)) if tells else work(*given)
        sending.send(("done", value))
    except LtpError as error:
        sending.send(("problem", Problem.of(error).model_dump(mode="json")))
    except Exception:
        sending.send(("error", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Teller:
    """Sends progress, in steps."""

    def __init__(self, sending: Connection) -> None:
        self._sending, self._told = sending, 0.0

    def __call__(self, share: float) -> None:
        if share - self._told >= _STEP:
            self._told = share
            self._sending.send(("progress", share))


async def keep_ready() -> None:
    """Keep the server of processes running, so that the first work does not wait for its imports."""
    while True:
        await warm()
        await asyncio.sleep(60.0)


async def warm() -> None:
    """Start the server of processes where it does not run."""
    await asyncio.to_thread(ensure_running)
