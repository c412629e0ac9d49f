"""What an attempt's traces on its host mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ltp.core.errors import ErrorCode
from services.runner.backends import LaunchStatus
from services.runner.host import parse_gpus
from services.runner.policy import complete_lines, judge, last_available_share, step_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = LaunchStatus(1, 1, 2, 2, "running", NOW, NOW, None, None, None, None, True)
EXITED = replace(RUNNING, state="exited", exit_code=0, ended_at=NOW, alive=False)


def verdict(status: LaunchStatus, *, stop: Any = None, saved: bool = False, log: str = "") -> tuple[str, str | None]:
    found = judge(status, stop=stop, final_step_saved=saved, log_tail=log)
    return found.outcome, found.problem.code if found.problem else None


def test_a_launcher_that_lives_means_a_running_attempt_however_old_its_word() -> None:
    assert verdict(RUNNING) == ("running", None)


def test_a_launcher_gone_without_a_record_means_a_lost_attempt() -> None:
    assert verdict(replace(RUNNING, alive=False)) == ("lost", ErrorCode.ATTEMPT_LOST)


def test_work_that_was_done_is_done_although_nobody_saw_it_end() -> None:
    assert verdict(replace(RUNNING, alive=False), saved=True) == ("succeeded", None)
    assert step_of("/runs/r/attempt-1/checkpoints/global_step_40") == 40
    assert (step_of(None), step_of("/runs/x")) == (0, 0)


def test_success_is_proven_by_the_last_checkpoint() -> None:
    assert verdict(EXITED, saved=True) == ("succeeded", None)
    assert verdict(EXITED, saved=False) == ("failed", ErrorCode.TRAINING_FAILED)


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    assert verdict(replace(EXITED, exit_code=None, signal=15), stop="kill") == ("stopped", None)
    assert verdict(EXITED, stop="leave") == ("stopped", None)


def test_an_attempt_that_breaks_while_it_saves_has_failed_although_it_was_asked_to_leave() -> None:
    log = "OSError: [Errno 28] No space left on device"
    assert verdict(replace(EXITED, exit_code=1), stop="leave", log=log) == ("failed", ErrorCode.DISK_FULL)


def test_a_host_that_shuts_down_lets_its_attempts_leave() -> None:
    assert verdict(replace(EXITED, reason="stopped")) == ("stopped", None)


def test_the_time_limit_is_named() -> None:
    assert verdict(replace(EXITED, reason="time_limit")) == ("failed", ErrorCode.TIME_LIMIT)


def test_only_whole_lines_are_read() -> None:
    assert complete_lines(b'{"a":1}\n{"b"') == [b'{"a":1}\n']
    assert complete_lines(b"half") == []


def test_gpus_are_read_from_nvidia_smi_and_what_it_cannot_say_is_left_out() -> None:
    table = "0, NVIDIA H200, 143771\n1, NVIDIA H200, [N/A]\n\nNo devices were found\n"
    assert [(d.index, d.memory_bytes) for d in parse_gpus(table)] == [(0, 143771 << 20)]


def test_the_last_whole_sample_tells_what_the_host_had_left() -> None:
    samples = b'{"host_available_bytes": 50, "host_total_bytes": 100}\n{"host_available_bytes": 2, "host_total_bytes": 100}\n{"host_av'
    assert last_available_share(samples) == 0.02
    assert last_available_share(b"") is None
