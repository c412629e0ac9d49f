"""This machine as a backend: launch, look, read, stop, kill."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner.backends import Backend
from services.runner.backends.local import LocalBackend
from tests.service.runner.conftest import TRAINING, Attempt

pytestmark = pytest.mark.asyncio


def _spec(directory: Path, *arguments: str) -> LaunchSpec:
    directory.mkdir(exist_ok=True)
    (directory / "training.py").write_text(TRAINING)
    return LaunchSpec(
        argv=(sys.executable, "training.py", *arguments),
        env={},
        cwd=str(directory),
        metrics_path=str(directory / "metrics.jsonl"),
        stop_file=str(directory / "stop"),
    )


async def test_a_run_from_launch_to_stop(attempt: Attempt) -> None:
    backend: Backend = LocalBackend()
    assert await backend.status(attempt.directory) is None
    await backend.launch(attempt.directory, _spec(attempt.directory, "wait"))
    status = await backend.status(attempt.directory)
    assert status is not None
    assert status.alive
    assert status.state == "running"
    with pytest.raises(LtpError) as caught:
        await backend.launch(attempt.directory, _spec(attempt.directory, "exit", "0"))
    assert caught.value.code is ErrorCode.CONFLICT
    await backend.request_stop(attempt.directory)
    assert attempt.end()["reason"] == "stopped"
    assert await backend.read(attempt.directory, "log.txt", 5, 4) == b"wait"


async def test_kill_works_even_when_the_launcher_is_gone(attempt: Attempt) -> None:
    backend = LocalBackend()
    await backend.launch(attempt.directory, _spec(attempt.directory, "deaf"))
    os.kill(attempt.status()["launcher_pid"], signal.SIGKILL)
    status = await backend.status(attempt.directory)
    while status is not None and status.alive:
        status = await backend.status(attempt.directory)
    await backend.kill(attempt.directory)
    assert attempt.end()["state"] == "exited"
    assert not attempt.survivors()


async def test_what_cannot_start_is_launch_failed(attempt: Attempt) -> None:
    attempt.directory.mkdir()
    spec = LaunchSpec(argv=("/no/such",), env={}, cwd="/", metrics_path="m", stop_file=str(attempt.directory / "stop"))
    with pytest.raises(LtpError, match="/no/such") as caught:
        await LocalBackend().launch(attempt.directory, spec)
    assert caught.value.code is ErrorCode.LAUNCH_FAILED


async def test_reading_stays_inside_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (tmp_path / "secret").write_text("secret")
    (run_dir / "link").symlink_to(tmp_path / "secret")
    assert await LocalBackend().read(run_dir, "missing.txt", 0, 10) == b""
    for name in ("../secret", "link", str(tmp_path / "secret")):
        with pytest.raises(LtpError):
            await LocalBackend().read(run_dir, name, 0, 10)
