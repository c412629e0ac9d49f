"""Failures that really happen, under the real launcher, and what the runner says of each: its code and the lines that prove it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from services.runner.attempt import log_tail
from services.runner.backends.local import LocalBackend
from services.runner.policy import Verdict, judge
from tests.service.runner.conftest import LAUNCHER, Attempt, wait_for

BACKEND = LocalBackend()


def verdict(attempt: Attempt) -> Verdict:
    """What the runner makes of the traces of an attempt that is over."""
    attempt.end()

    async def read() -> Verdict:
        status = await BACKEND.status(attempt.directory)
        assert status is not None
        tail = await log_tail(BACKEND, attempt.directory)
        return judge(status, stop=None, final_step_saved=False, log_tail=tail)

    return asyncio.run(read())


def start(attempt: Attempt, script: str, **more: object) -> None:
    path = attempt.directory.parent / "script.py"
    path.write_text(script)
    attempt.prepare(argv=[sys.executable, str(path)], **more)
    subprocess.run([*LAUNCHER, str(attempt.directory)], check=True, timeout=30)


def problem_of(attempt: Attempt, script: str, **more: object) -> Problem:
    start(attempt, script, **more)
    found = verdict(attempt)
    assert found.outcome == "failed"
    assert found.problem is not None
    assert found.problem.evidence, found
    return found.problem


HOST_MEMORY = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
bytearray(1 << 30)
"""
SHARED = "import nothing_of_this_name_is_installed\n"
VERSION = "from json import not_in_this_version\n"
DATA = """
import pathlib, pyarrow.parquet as pq
pathlib.Path("rows.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
pq.read_table("rows.parquet")
"""
ROW = """
class Rows:
    def __getitem__(self, index):
        return {"prompt": 1}["messages"]
Rows()[3]
"""
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    return 1 / 0
compute_score("", "", "", {})
"""
PEERS = """
import os, datetime, torch.distributed as dist
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="2")
store = dist.TCPStore("127.0.0.1", 0, 2, True, datetime.timedelta(seconds=1), wait_for_workers=True)
"""
SPAM = """
import sys
print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", flush=True)
sys.stdout.write("y" * 100_000 + "\\n")
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("script", "code", "proof"),
    [
        (HOST_MEMORY, ErrorCode.HOST_OUT_OF_MEMORY, "MemoryError"),
        (SHARED, ErrorCode.DEPENDENCY_MISSING, "nothing_of_this_name_is_installed"),
        (VERSION, ErrorCode.DEPENDENCY_MISSING, "not_in_this_version"),
        (DATA, ErrorCode.TRAINING_DATA_INVALID, "ArrowInvalid"),
        (ROW, ErrorCode.TRAINING_DATA_INVALID, "KeyError: 'messages'"),
        (REWARD, ErrorCode.REWARD_FAILED, "ZeroDivisionError"),
        (PEERS, ErrorCode.COLLECTIVE_FAILED, "imed out"),
        (SPAM, ErrorCode.TRAINING_OUT_OF_MEMORY, "Tried to allocate 2.00 GiB"),
        ("import torch; torch.empty(1 << 50)", ErrorCode.TRAINING_OUT_OF_MEMORY, "DefaultCPUAllocator"),
        ("import torch; torch.zeros(1, device='cuda')", ErrorCode.DEPENDENCY_MISSING, "CUDA"),
        ("raise RuntimeError('something else')", ErrorCode.TRAINING_FAILED, "something else"),
        ("import os; os.abort()", ErrorCode.TRAINING_FAILED, "signal 6"),
    ],
)
def test_a_failure_is_named_with_its_proof(attempt: Attempt, script: str, code: ErrorCode, proof: str) -> None:
    found = problem_of(attempt, script)
    assert found.code == code, found
    assert any(proof in line for line in found.evidence), found
    assert found.hint


def test_a_kill_from_outside(attempt: Attempt) -> None:
    attempt.start("wait")
    os.kill(attempt.status()["pid"], signal.SIGKILL)
    found = verdict(attempt)
    assert found.problem is not None
    assert found.problem.code == ErrorCode.TRAINING_KILLED
    assert "signal 9" in found.problem.evidence[0]


@pytest.mark.parametrize(("mode", "outcome"), [("wait", "stopped"), ("deaf", "failed")])
def test_a_host_that_shuts_down(attempt: Attempt, mode: str, outcome: str) -> None:
    attempt.start(mode)
    status = attempt.status()
    os.kill(status["launcher_pid"], signal.SIGTERM)
    if mode == "deaf":
        # The host says the same to everybody, and some cannot save in time.
        wait_for((attempt.directory / "stop").exists)
        os.kill(status["pid"], signal.SIGTERM)
    found = verdict(attempt)
    assert found.outcome == outcome
    if found.problem is not None:
        assert found.problem.code == ErrorCode.PREEMPTED
        assert found.problem.evidence[:2] == ["the launcher got SIGTERM", "signal 15"]


def test_a_hang(attempt: Attempt) -> None:
    metrics = """
import time
open("metrics.jsonl", "w").write('{"step": 1, "data": {}}' + chr(10))
time.sleep(600)
"""
    found = problem_of(attempt, metrics, stall_seconds=0.3, hang_seconds=0.5)
    assert found.code == ErrorCode.TRAINING_STALLED
    assert "no line of metrics for" in found.evidence[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "t", str(place)]).returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "run")
    found = problem_of(
        attempt, f"open({str(small_disk / 'checkpoint.pt')!r}, 'wb').write(bytes(32 << 20))", reserve_bytes=0
    )
    assert found.code == ErrorCode.DISK_FULL
    assert any("No space left on device" in line for line in found.evidence)


def test_a_process_ended_for_memory_by_the_kernel(attempt: Attempt) -> None:
    attempt.start("wait")
    status = attempt.status()
    os.kill(status["pid"], signal.SIGKILL)
    attempt.end()

    async def read() -> Verdict:
        found = await BACKEND.status(attempt.directory)
        assert found is not None
        return judge(replace(found, oom_kills=1), stop=None, final_step_saved=False, log_tail="")

    found = asyncio.run(read())
    assert found.problem is not None
    assert found.problem.code == ErrorCode.HOST_OUT_OF_MEMORY
    assert any("oom_kill" in line for line in found.problem.evidence)
