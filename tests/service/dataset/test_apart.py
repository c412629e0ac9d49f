"""Work in a process of its own: its result, its errors, its end on request, its death, and the death of its service."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.apart import Progress, apart


def half(number: int, progress: Progress | None = None) -> int:
    if progress is not None:
        progress(0.5)
    return number // 2


def refuse() -> None:
    raise LtpError(ErrorCode.DATASET_EMPTY, "There is nothing.", "Add rows.")


def stumble() -> None:
    raise KeyError("gone")


def last_for_ever(pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    while True:
        time.sleep(1)


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(60):
        while not (path.exists() and path.read_text()):
            await asyncio.sleep(0.01)
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(30):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def test_what_it_returns_tells_and_raises() -> None:
    told: list[float] = []

    async def note(share: float) -> None:
        told.append(share)

    assert await apart(half, 8) == 4
    assert await apart(half, 8, note=note) == 4 and told == [0.5]
    with pytest.raises(LtpError, match="There is nothing") as caught:
        await apart(refuse)
    assert caught.value.code is ErrorCode.DATASET_EMPTY and caught.value.hint == "Add rows."
    with pytest.raises(RuntimeError, match="gone"):
        await apart(stumble)


async def test_it_ends_at_once_when_cancelled_or_dropped(tmp_path: Path) -> None:
    cancelled = asyncio.Event()
    task = asyncio.create_task(apart(last_for_ever, tmp_path / "a", cancelled=cancelled))
    pid = await pid_in(tmp_path / "a")
    cancelled.set()
    with pytest.raises(LtpError) as caught:
        await task
    assert caught.value.code is ErrorCode.CANCELLED and not is_alive(pid)
    task = asyncio.create_task(apart(last_for_ever, tmp_path / "b"))
    pid = await pid_in(tmp_path / "b")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pid)


async def test_a_killed_process_is_an_error_worth_another_try(tmp_path: Path) -> None:
    task = asyncio.create_task(apart(last_for_ever, tmp_path / "a"))
    os.kill(await pid_in(tmp_path / "a"), signal.SIGKILL)
    with pytest.raises(LtpError) as caught:
        await task
    assert caught.value.code is ErrorCode.INTERNAL


async def test_it_dies_with_its_service(tmp_path: Path) -> None:
    script = "import asyncio, sys; from pathlib import Path; from services.dataset.apart import apart; "
    script += "from tests.service.dataset.test_apart import last_for_ever; "
    script += "asyncio.run(apart(last_for_ever, Path(sys.argv[1])))"
    service = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a")])
    pid = await pid_in(tmp_path / "a")
    service.kill()
    service.wait()
    await gone(pid)
