"""A launcher with a stand-in for the training process, and a way to wait that is neither a sleep nor endless."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.runner import launch

TRAINING = """
import os, pathlib, subprocess, sys, time
mode, here = sys.argv[1], pathlib.Path(".")
print("mode", mode, flush=True)
(here / "pid").write_text(str(os.getpid()))
if mode == "exit":
    sys.exit(int(sys.argv[2]))
if mode == "escape":
    # A grandchild in a session of its own, orphaned, deaf to SIGTERM and without the mark in its environment.
    child = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.setsid(); " \\
            "open('escaped', 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], env={{}})"
    subprocess.Popen([sys.executable, "-c", parent]).wait()
    while not (here / "escaped").exists() or not (here / "escaped").read_text():
        time.sleep(0.01)
    sys.exit(0)
while not os.path.exists(os.environ["LTP_STOP_FILE"]) or mode == "deaf":
    time.sleep(0.01)
"""
LAUNCHER = (sys.executable, "-I", launch.__file__)


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The condition's first true value; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        tick.wait(0.02)
    raise AssertionError(f"not true after {seconds} s")


class Attempt:
    """One run directory and what the launcher says about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self, *arguments: str, **changes: Any) -> None:
        """Write launch.json for the stand-in in a mode of its own."""
        self.directory.mkdir()
        script = self.directory / "training.py"
        script.write_text(TRAINING)
        spec = {
            "argv": [sys.executable, str(script), *arguments],
            "env": {"TRACEPARENT": "00-1-2-01"},
            "cwd": str(self.directory),
            "metrics_path": str(self.directory / "metrics.jsonl"),
            "stop_file": str(self.directory / "stop"),
            "time_limit_seconds": None,
            "grace_seconds": 60,
        }
        (self.directory / "launch.json").write_text(json.dumps({**spec, **changes}))

    def start(self, *arguments: str, **changes: Any) -> None:
        """Launch, and return once the training process runs."""
        self.prepare(*arguments, **changes)
        subprocess.run([*LAUNCHER, str(self.directory)], check=True, timeout=20)

    def status(self) -> dict[str, Any]:
        """What status.json says now."""
        return json.loads((self.directory / "status.json").read_text())

    def end(self) -> dict[str, Any]:
        """The final status, once there is one."""
        wait_for(lambda: self.status()["state"] == "exited")
        return self.status()

    def survivors(self) -> set[int]:
        """The processes of this attempt that still run."""
        return launch.processes(self.directory.resolve(), -1, self.status()["pgid"])


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    """An attempt that is ended with the test."""
    attempt = Attempt(tmp_path / "run")
    yield attempt
    if (attempt.directory / "status.json").exists():
        (attempt.directory / "kill").touch()
        attempt.end()
