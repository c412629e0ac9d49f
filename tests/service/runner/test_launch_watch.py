"""What the launcher watches beside the process: stalls with their stacks, the disk, older attempts, endless lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.runner import launch
from services.runner.launch import Arrivals, DiskForecast, Progress
from tests.service.runner.conftest import LAUNCHER, Attempt, wait_for

ROOT = Path(__file__).resolve().parents[3]
QUICK = {"stall_seconds": 0.5, "stall_steps": 3.0}
# Trains until `go` is gone, a line of metrics every 50 ms, and hangs in a function that the stack must show.
STEPS = """
import json, os, pathlib, sys, time
if "deaf" not in sys.argv:
    import ltp_verl.stacks
here = pathlib.Path(".")
def wait_for_a_peer_that_never_comes():
    while not (here / "go").exists():
        time.sleep(0.01)
step = 0
with open("metrics.jsonl", "w") as file:
    while not os.path.exists(os.environ["LTP_STOP_FILE"]):
        wait_for_a_peer_that_never_comes()
        step += 1
        print(json.dumps({"step": step, "data": {"train/loss": 1.0}}), file=file, flush=True)
        time.sleep(0.05)
"""


def train(
    attempt: Attempt, script: str, *arguments: str, prepare: Callable[[], Any] = lambda: None, **more: Any
) -> int:
    """Launch a script as the training; its pid."""
    path = attempt.directory.parent / "script.py"
    path.write_text(script)
    environment = {"PYTHONPATH": f"{ROOT / 'libs'}"}
    attempt.prepare(argv=[sys.executable, str(path), *arguments], env=environment, **more)
    prepare()
    subprocess.run([*LAUNCHER, str(attempt.directory)], check=True, timeout=30)
    return int(attempt.status()["pid"])


def go(attempt: Attempt) -> Path:
    return attempt.directory / "go"


def lines(attempt: Attempt) -> int:
    metrics = attempt.directory / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def stalled(attempt: Attempt) -> Any:
    return attempt.status()["stalled"]


def test_a_hang_is_marked_with_the_stacks_and_unmarked_when_it_goes_on(attempt: Attempt) -> None:
    pid = train(attempt, STEPS, **QUICK, prepare=lambda: go(attempt).touch())
    wait_for(lambda: lines(attempt) > 5 and stalled(attempt) is None)
    go(attempt).unlink()
    # On a busy machine the silence of its start may have been marked too.
    found = wait_for(lambda: (told := stalled(attempt)) and told["last_step"] and told)
    said = "\n".join(found["evidence"])
    assert "in wait_for_a_peer_that_never_comes" in said, said
    assert f"process {pid} (" in said
    assert found["last_step"] > 0
    assert found["median_step_seconds"] == pytest.approx(0.05, abs=0.1)
    assert "wait_for_a_peer_that_never_comes" in (attempt.directory / "stacks" / f"{pid}.txt").read_text()
    go(attempt).touch()
    wait_for(lambda: stalled(attempt) is None)
    assert attempt.status()["pid"] == pid
    assert attempt.status()["state"] == "running"


def test_a_process_that_cannot_tell_its_stacks_is_not_harmed(attempt: Attempt) -> None:
    pid = train(attempt, STEPS, "deaf", **QUICK)
    wait_for(lambda: stalled(attempt))
    assert attempt.survivors() == {pid}
    os.kill(pid, signal.SIGSTOP)
    go(attempt).touch()
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: stalled(attempt) is None)


def test_a_stopped_process_is_named_as_stopped(attempt: Attempt) -> None:
    pid = train(attempt, STEPS, **QUICK, prepare=lambda: go(attempt).touch())
    wait_for((attempt.directory / "stacks" / f"{pid}.txt").exists)
    wait_for(lambda: lines(attempt) > 0)
    os.kill(pid, signal.SIGSTOP)
    found = wait_for(lambda: stalled(attempt))
    os.kill(pid, signal.SIGCONT)
    assert any("state T" in line for line in found["evidence"]), found


def test_the_limit_of_silence_ends_a_hang(attempt: Attempt) -> None:
    train(attempt, STEPS, **QUICK, hang_seconds=1.0)
    status = attempt.end()
    assert status["reason"] == "hung"
    assert any("wait_for_a_peer" in line for line in status["stalled"]["evidence"])
    assert not attempt.survivors()


def test_slow_steps_are_no_stall(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    arrivals = Arrivals(metrics, 0.0)
    for step in range(1, 6):
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "data": {}}) + "\n")
        arrivals.look(300.0 * step)
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "data": {"val/loss": 1}}) + "\n")
        arrivals.look(300.0 * step + 1)
    assert arrivals.median_seconds() == 300.0  # The line of the validation is no step.
    assert arrivals.at == 1501.0


def test_the_rollout_within_a_step_is_read_from_the_log_wherever_it_is_cut() -> None:
    line = b"step 3 pending: 12, running: 4, finished: 48, failure: 1\n"
    for cut in range(len(line)):
        progress = Progress()
        progress.feed(b"x" * 70_000 + line[:cut])
        progress.feed(line[cut:])
        assert progress.newest is not None, cut
        assert {k: progress.newest[k] for k in ("pending", "running", "finished", "failed")} == {
            "pending": 12, "running": 4, "finished": 48, "failed": 1,
        }  # fmt: skip


@pytest.mark.parametrize(("free", "level"), [(1000, "ok"), (290, "warn"), (190, "alarm"), (119, "pause"), (0, "pause")])
def test_the_disk_is_judged_in_checkpoints(free: int, level: str) -> None:
    forecast = DiskForecast({**launch.DEFAULTS, "checkpoint_bytes": 100, "reserve_bytes": 0})
    assert forecast.look(0.0, free)["level"] == level


def test_the_disk_is_forecast_from_its_pace() -> None:
    forecast = DiskForecast({**launch.DEFAULTS, "checkpoint_bytes": 100, "reserve_bytes": 0})
    for minute in range(10):
        found = forecast.look(60.0 * minute, 1_000_000 - minute * 6_000)  # 100 bytes a second
    assert found["bytes_per_second"] == 100
    assert found["full_in_seconds"] == pytest.approx(9459, abs=2)
    assert found["level"] == "ok"
    for minute in range(10, 20):
        found = forecast.look(60.0 * minute, 400_000 - minute * 6_000)
    assert found["level"] in {"warn", "alarm"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "t", str(place)]).returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_without_room_for_a_checkpoint_starts_nothing(small_disk: Path) -> None:
    attempt = Attempt(small_disk / "run")
    attempt.prepare("wait", checkpoint_bytes=80 << 20, reserve_bytes=0)
    done = subprocess.run([*LAUNCHER, str(attempt.directory)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 5
    assert "checkpoint takes about 0.08 GiB" in done.stderr
    assert not (attempt.directory / "status.json").exists()


def test_a_disk_that_fills_is_said_first_and_pauses_the_run_while_a_checkpoint_still_fits(small_disk: Path) -> None:
    attempt = Attempt(small_disk / "run")
    attempt.prepare("wait", checkpoint_bytes=10 << 20, reserve_bytes=4 << 20)
    subprocess.run([*LAUNCHER, str(attempt.directory)], check=True, timeout=20)
    wait_for(lambda: (attempt.status()["disk"] or {}).get("level") == "ok")
    (small_disk / "others").write_bytes(bytes(32 << 20))
    wait_for(lambda: attempt.status()["disk"]["level"] == "warn")
    (small_disk / "more").write_bytes(bytes(16 << 20))
    status = attempt.end()
    assert (status["exit_code"], status["reason"]) == (0, "disk_full")
    assert status["disk"]["level"] == "pause"
    # What was to be saved at the pause had its room.
    (small_disk / "checkpoint").write_bytes(bytes(10 << 20))


@pytest.mark.parametrize("launcher", ["alive", "stopped", "dead"])
def test_a_new_attempt_first_ends_the_older_one(tmp_path: Path, launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = Attempt(tmp_path / "attempt-1"), Attempt(tmp_path / "attempt-2")
    older.start("wait")
    wait_for((older.directory / "log.txt").exists)
    old = older.status()
    if launcher != "alive":
        os.kill(old["launcher_pid"], signal.SIGSTOP if launcher == "stopped" else signal.SIGKILL)
    newer.prepare("wait")
    # The seconds that an older one is given are a constant of the file.
    short = tmp_path / "launch.py"
    short.write_text(Path(launch.__file__).read_text().replace("FENCE_SECONDS = 15.0", "FENCE_SECONDS = 1.0"))
    subprocess.run([sys.executable, "-I", str(short), str(newer.directory)], check=True, timeout=30)
    assert older.status()["state"] == "exited"
    assert not older.survivors()
    assert newer.status()["state"] == "running"
    assert old["pid"] not in newer.survivors()
    # And the older one does not come back.
    (older.directory / "status.json").unlink()
    late = subprocess.run([*LAUNCHER, str(older.directory)], capture_output=True, text=True, timeout=20)
    assert late.returncode == 6
    assert "attempt 2 of the run was started after this one" in late.stderr
    (newer.directory / "kill").touch()
    newer.end()


ENDLESS = """
import os, sys
piece = b"x" * (1 << 20)
for _ in range(int(sys.argv[1])):
    os.write(1, piece)
os.write(1, b"\\npending: 1, running: 2, finished: 3, failure: 0\\n")
"""


def test_an_endless_line_fills_neither_memory_nor_disk(attempt: Attempt) -> None:
    megabytes = 400
    train(attempt, ENDLESS, str(megabytes))
    launcher, peak = attempt.status()["launcher_pid"], 0
    while attempt.status()["state"] != "exited":
        peak = max(peak, _resident(launcher))
    assert 0 < peak < 64 << 20
    files = [attempt.directory / "log.txt", attempt.directory / "log.txt.1"]
    assert sum(f.stat().st_size for f in files) <= 2 * launch.LOG_BYTES
    assert b"finished: 3" in files[0].read_bytes()[-100:]
    assert attempt.status()["progress"]["finished"] == 3


def _resident(pid: int) -> int:
    try:
        line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) * 1024
