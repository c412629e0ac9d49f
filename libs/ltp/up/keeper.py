"""Keeps one process alive: start, wait until it is ready, start again after a growing pause when it ends or hangs."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from ltp.core.errors import ErrorCode, LtpError
from ltp.up.logs import tail
from ltp.up.probe import answers, is_silent
from ltp.up.process import Child, ProcessSpec, signal_group
from ltp.up.record import ProcessRecord, ProcessState, now

BACK_OFF_SECONDS = (0.2, 1.0, 5.0, 15.0)
# After this much health an earlier failure no longer lengthens the pause; a start costs a few seconds.
FORGIVEN_SECONDS = 10.0
START_ATTEMPTS = 3  # ends before the first readiness that count as a crash loop
PROBE_SECONDS = 0.1
# A process that lives and answers nothing, so often in a row at this distance, hangs: some 45 s. Counted and not
# timed, so that a supervisor that itself stood still blames nobody.
HEALTH_SECONDS = 3.0
SILENT_PROBES = 6
STARTING_PROBES = 40

log = logging.getLogger(__name__)


class Keeper:
    """The life of one supervised process; `record` is what others see of it."""

    def __init__(self, spec: ProcessSpec, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.record = ProcessRecord(spec.name, spec.port, spec.probe)
        self.ready = asyncio.Event()  # set at the first readiness, for good
        self._changed = changed
        self._child: Child | None = None

    async def keep(self) -> None:
        """Run until cancelled; raise only when the process cannot be brought up a first time."""
        failures = 0
        while True:
            healthy_seconds, reason = await self._live_once()
            failures = 1 if healthy_seconds > FORGIVEN_SECONDS else failures + 1
            if not self.ready.is_set() and failures >= START_ATTEMPTS:
                raise self._crash_loop(failures, reason)
            pause = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS)) - 1]
            log.warning("%s %s; starting it again in %s s", self.spec.name, reason, pause)
            self.record.restarts += 1
            self._show(ProcessState.RESTARTING)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the process for good; call after the task of `keep` has been cancelled."""
        if self._child is not None:
            self._show(ProcessState.STOPPING)
            await self._child.stop()
        self._show(ProcessState.STOPPED)

    async def _live_once(self) -> tuple[float, str]:
        """Return how long the process was healthy and how it ended."""
        try:
            await self.spec.prepare()
            self._child = await Child.start(self.spec)
        except (LtpError, OSError) as error:
            if not self.ready.is_set():
                raise _as_start_failure(self.spec, error) from error
            return 0.0, f"cannot be started: {error}"
        self.record.pid, self.record.start_ticks = self._child.pid, self._child.start_ticks
        self.record.started_at = now()
        self._show(ProcessState.STARTING)
        ready_at: list[float] = []
        watch = asyncio.create_task(self._watch(ready_at))
        hang = asyncio.create_task(self._end_when_silent(self._child, ready_at))
        try:
            code = await self._child.wait()
        finally:
            watch.cancel()
            hang.cancel()
        self._child = None  # its pid may soon be another's
        reason = "lived without an answer and was ended" if hang.done() else f"ended with exit code {code}"
        return time.monotonic() - ready_at[0] if ready_at else 0.0, reason

    async def _watch(self, ready_at: list[float]) -> None:
        while not await answers(self.spec.probe):
            await asyncio.sleep(PROBE_SECONDS)
        ready_at.append(time.monotonic())
        self.ready.set()
        self._show(ProcessState.READY)

    async def _end_when_silent(self, child: Child, ready_at: list[float]) -> None:
        """Return once the process was silent for so long that it was killed; a longer silence is borne while it starts."""
        silences = 0
        while silences < (SILENT_PROBES if ready_at else STARTING_PROBES):
            await asyncio.sleep(HEALTH_SECONDS)
            silences = silences + 1 if await is_silent(self.spec.probe) else 0
        log.warning("%s gave no answer %d times in a row", self.spec.name, silences)
        signal_group(child.pid, signal.SIGKILL)

    def _show(self, state: ProcessState) -> None:
        self.record.state = state
        self._changed()

    def _crash_loop(self, failures: int, reason: str) -> LtpError:
        return start_failure(self.spec, f"{reason}, {failures} times in a row, before it was ready")


def start_failure(spec: ProcessSpec, what_happened: str) -> LtpError:
    """Say which process would not start, in its own last words."""
    return LtpError(
        ErrorCode.START_FAILED,
        f"{spec.name} {what_happened}. The end of {spec.log}:\n{tail(spec.log)}",
        "Mend what the log says, then run `ltp up` again.",
    )


def _as_start_failure(spec: ProcessSpec, error: LtpError | OSError) -> LtpError:
    return error if isinstance(error, LtpError) else start_failure(spec, f"cannot be started: {error}")
