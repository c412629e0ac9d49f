"""One child process: described by a value, started so that it cannot outlive its supervisor, and stopped with grace."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ltp.up import procfs
from ltp.up.logs import open_log

GRACE_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: the child may only call it


async def nothing_to_prepare() -> None:
    """Stand for a process that can start at once."""


@dataclass(frozen=True)
class ProcessSpec:
    """How to start, ask and stop one process; `environment` is all it gets, so secrets go to whom they concern."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    port: int = 0
    probe: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL  # what the kernel sends when the supervisor itself is killed
    niceness: int = 0
    directory: str | None = None
    prepare: Callable[[], Awaitable[None]] = nothing_to_prepare


class Child:
    """A started process in a session of its own."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self.pid = process.pid
        self.start_ticks = procfs.start_ticks(process.pid)
        self._process = process

    @classmethod
    async def start(cls, spec: ProcessSpec, stdin: bytes = b"") -> Child:
        """Start the process, from the main thread only: the death signal follows the thread that forked."""
        with open_log(spec.log) as log:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.environment),
                cwd=spec.directory,
                start_new_session=True,  # the terminal's Ctrl-C reaches only the supervisor, which stops all in order
                preexec_fn=_tie_to_parent(os.getpid(), spec.death_signal, spec.niceness),
            )
        if stdin and process.stdin:
            process.stdin.write(stdin)
            process.stdin.close()
        return cls(spec, process)

    async def wait(self) -> int:
        """Wait for the end, and end what the process left in its group."""
        code = await self._process.wait()
        signal_group(self.pid, signal.SIGKILL)
        return code

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Ask the process to end, and end its group when it does not."""
        if self._process.returncode is None:
            self._process.send_signal(self.spec.stop_signal)
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait()
        except TimeoutError:
            signal_group(self.pid, signal.SIGKILL)
            await self.wait()


async def run_to_end(spec: ProcessSpec, stdin: bytes = b"") -> int:
    """Run a command that ends by itself, and take it along when the wait for it is given up."""
    child = await Child.start(spec, stdin)
    try:
        return await child.wait()
    except asyncio.CancelledError:
        await child.stop()
        raise


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: another user's by now
        os.killpg(leader, number)


def _tie_to_parent(parent: int, death_signal: signal.Signals, niceness: int) -> Callable[[], None]:
    def in_child() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the supervisor died before the tie held
            os._exit(1)
        if niceness:
            os.nice(niceness)

    return in_child
