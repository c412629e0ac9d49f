"""The sandbox as its users see it: a few processes that judge side by side and are gone when the run is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ltp.core.errors import ErrorCode, LtpError

_PROGRAM = Path(__file__).with_name("sandbox_process.py")
_START_SECONDS = 60.0
_GRACE_SECONDS = 10.0
_LINE_BYTES = 64 << 20


@dataclass
class Sandbox:
    """Processes that run one scorer. `caged` is False where the kernel allowed no namespaces: limits hold, walls do not."""

    settings: Mapping[str, Any]
    hidden: Sequence[Path]
    size: int = 2
    caged: bool = True
    _free: asyncio.Queue[asyncio.subprocess.Process | None] = field(
        default_factory=asyncio.Queue[asyncio.subprocess.Process | None]
    )
    _scratch: list[str] = field(default_factory=list[str])
    _alive: list[asyncio.subprocess.Process] = field(default_factory=list[asyncio.subprocess.Process])

    async def __aenter__(self) -> Self:
        try:
            self._free.put_nowait(await self._start())
        except BaseException:
            await self._end()
            raise
        for _ in range(self.size - 1):
            self._free.put_nowait(None)  # started when first needed
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def judge(self, response: str, reference: str | None, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the scorer says: `value` or `outcome`, with `detail`."""
        process = await self._free.get()
        try:
            if process is None or process.returncode is not None:
                process = await self._start()
            line = json.dumps({"response": response, "reference": reference, "row": row}) + "\n"
            return await self._exchange(process, line, self.settings["timeout_seconds"] + _GRACE_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            # The process itself is broken or stuck: it goes, and the next answer gets a fresh one.
            if process is not None and process.returncode is None:
                process.kill()
            why = {"why": f"the sandbox failed: {type(error).__name__}"}
            return {"outcome": "unparsable", "detail": why, "failed": True}
        finally:
            self._free.put_nowait(process)

    async def _start(self) -> asyncio.subprocess.Process:
        scratch = tempfile.mkdtemp(prefix="ltp-sandbox-")
        self._scratch.append(scratch)
        settings = {"timeout_seconds": 10.0, "memory_bytes": 2 << 30, **self.settings}
        self.settings = settings
        argument = json.dumps({**settings, "scratch": scratch, "hidden": [str(path) for path in self.hidden]})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(_PROGRAM), argument),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Nothing of ours: the environment holds URLs with passwords.
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            limit=_LINE_BYTES,
        )
        self._alive.append(process)
        try:
            hello = await self._exchange(process, "", settings.get("start_seconds", _START_SECONDS))
        except (OSError, ValueError, TimeoutError) as error:
            raise LtpError(
                ErrorCode.SCORER_FAILED, f"The sandbox does not start: {error or type(error).__name__}", "See the log."
            ) from error
        if "problem" in hello:
            raise _not_ready(str(settings["name"]), str(hello["problem"]))
        self.caged = self.caged and hello["cage"] == "full"
        return process

    async def _exchange(self, process: asyncio.subprocess.Process, line: str, seconds: float) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        if line:
            process.stdin.write(line.encode())
            await process.stdin.drain()
        async with asyncio.timeout(seconds):
            said = await process.stdout.readline()
        found: dict[str, Any] = json.loads(said)
        return found

    async def _end(self) -> None:
        for process in self._alive:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for scratch in self._scratch:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def processors() -> int:
    """How many sandboxes are worth having side by side."""
    return max(1, min(4, os.cpu_count() or 1))


def _not_ready(name: str, problem: str) -> LtpError:
    if "math_verify" in problem:
        hint = "Install the extra `scorers` (pip install 'ltp[scorers]'), or choose the scorer numeric."
        return LtpError(ErrorCode.DEPENDENCY_MISSING, f"The scorer math needs math-verify: {problem}", hint)
    return LtpError(ErrorCode.SCORER_FAILED, f"The scorer {name} cannot be loaded: {problem}", "Mend it and run again.")
