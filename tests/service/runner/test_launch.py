"""The launcher keeps its promises: one start, an honest end, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.runner.launch import Log
from tests.service.runner.conftest import LAUNCHER, Attempt, wait_for


def test_a_run_that_ends_by_itself(attempt: Attempt) -> None:
    attempt.start("exit", "0")
    status = attempt.end()
    assert (status["exit_code"], status["signal"], status["reason"]) == (0, None, None)
    assert b"mode exit" in (attempt.directory / "log.txt").read_bytes()


def test_a_failure_keeps_its_exit_code(attempt: Attempt) -> None:
    attempt.start("exit", "7")
    assert attempt.end()["exit_code"] == 7


def test_the_stop_file_ends_a_run_in_peace(attempt: Attempt) -> None:
    attempt.start("wait")
    assert attempt.status()["state"] == "running"
    (attempt.directory / "stop").touch()
    status = attempt.end()
    assert (status["exit_code"], status["reason"]) == (0, "stopped")


def test_kill_ends_a_run_at_once(attempt: Attempt) -> None:
    attempt.start("wait")
    (attempt.directory / "kill").touch()
    status = attempt.end()
    assert (status["exit_code"], status["signal"], status["reason"]) == (None, signal.SIGTERM, "stopped")


def test_the_time_limit_asks_first_and_kills_after_the_grace(attempt: Attempt) -> None:
    attempt.start("deaf", time_limit_seconds=0.3, grace_seconds=0.5)
    status = attempt.end()
    assert (status["signal"], status["reason"]) == (signal.SIGTERM, "time_limit")
    assert (attempt.directory / "stop").exists()


def test_the_heartbeat_and_the_samples_move_on(attempt: Attempt) -> None:
    attempt.start("wait")
    first = attempt.status()["heartbeat_at"]
    wait_for(lambda: attempt.status()["heartbeat_at"] > first)
    sample = wait_for(lambda: (attempt.directory / "samples.jsonl").read_text())
    assert '"memory_bytes"' in sample


def test_a_second_launcher_starts_nothing(attempt: Attempt) -> None:
    attempt.start("wait")
    pid = attempt.status()["pid"]
    second = subprocess.run([*LAUNCHER, str(attempt.directory)], capture_output=True, text=True, timeout=20)
    assert second.returncode == 3
    assert "nothing was started" in second.stderr
    assert attempt.survivors() == {pid}


def test_an_ended_attempt_is_not_started_again(attempt: Attempt) -> None:
    attempt.start("exit", "0")
    ended = attempt.end()
    wait_for(lambda: not Path(f"/proc/{ended['launcher_pid']}").exists())
    second = subprocess.run([*LAUNCHER, str(attempt.directory)], capture_output=True, timeout=20)
    assert second.returncode == 3
    assert attempt.status() == ended


def test_the_launcher_outlives_the_runner(attempt: Attempt) -> None:
    attempt.prepare("wait")
    runner = "import subprocess, sys, time; subprocess.run(sys.argv[1:], check=True); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", runner, *LAUNCHER, str(attempt.directory)], start_new_session=True
    )
    wait_for((attempt.directory / "status.json").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = attempt.status()["heartbeat_at"]
    wait_for(lambda: attempt.status()["heartbeat_at"] > before)
    assert attempt.survivors() == {attempt.status()["pid"]}


def test_nobody_survives_not_even_an_orphan_in_its_own_session(attempt: Attempt) -> None:
    attempt.start("escape")
    note = attempt.directory / "escaped"
    escaped = int(wait_for(lambda: note.exists() and note.read_text()))
    assert attempt.end()["exit_code"] == 0
    assert not Path(f"/proc/{escaped}").exists() or _is_zombie(escaped)


def test_what_a_dead_launcher_left_is_refused_and_reaped(attempt: Attempt) -> None:
    attempt.start("wait")
    # A training process that prints after its launcher's death dies of it.
    wait_for((attempt.directory / "log.txt").exists)
    launcher = attempt.status()["launcher_pid"]
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{launcher}").exists() or _is_zombie(launcher))
    pid = attempt.status()["pid"]
    (attempt.directory / "status.json").rename(attempt.directory / "status.old")
    second = subprocess.run([*LAUNCHER, str(attempt.directory)], capture_output=True, text=True, timeout=20)
    assert second.returncode == 3
    assert f"processes of {attempt.directory} still run ([{pid}])" in second.stderr
    (attempt.directory / "status.old").rename(attempt.directory / "status.json")
    subprocess.run([*LAUNCHER, "--reap", str(attempt.directory)], check=True, timeout=20)
    assert attempt.end()["reason"] == "stopped"
    assert not attempt.survivors()


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"]])
def test_what_cannot_start_says_why(attempt: Attempt, argv: list[str]) -> None:
    attempt.prepare(argv=argv)
    done = subprocess.run([*LAUNCHER, str(attempt.directory)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 4
    assert argv[0] in done.stderr
    assert not (attempt.directory / "status.json").exists()


def test_secrets_of_the_platform_stay_out_of_the_training_process(attempt: Attempt) -> None:
    attempt.prepare("wait")
    environment = {**os.environ, "LTP_DATABASE_URL": "hunter2"}
    subprocess.run([*LAUNCHER, str(attempt.directory)], env=environment, check=True, timeout=20)
    seen = Path(f"/proc/{attempt.status()['pid']}/environ").read_bytes()
    assert b"hunter2" not in seen
    assert b"TRACEPARENT=00-1-2-01" in seen


def test_the_log_turns_over_and_outlives_a_full_disk(tmp_path: Path) -> None:
    log = Log(tmp_path / "gone" / "log.txt", limit=10)
    _feed(log, b"lost")
    assert log.dropped == 4
    log.path.parent.mkdir()
    for line in (b"first\n", b"second\n"):
        _feed(log, line)
    assert b"refused 4 bytes" in log.path.with_name("log.txt.1").read_bytes()
    assert log.path.read_bytes() == b"second\n"


def _feed(log: Log, content: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    log.pump(reader)
    os.close(reader)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
