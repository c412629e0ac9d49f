"""What an attempt's traces on its host mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ltp.core.errors import ErrorCode
from services.runner.backends import LaunchStatus
from services.runner.host import parse_gpus
from services.runner.policy import complete_lines, diagnose, judge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = LaunchStatus(1, 1, 2, 2, "running", NOW, NOW, None, None, None, None, True)
EXITED = replace(RUNNING, state="exited", exit_code=0, ended_at=NOW, alive=False)


def verdict(status: LaunchStatus, *, stop: bool = False, saved: bool = False, log: str = "") -> tuple[str, str | None]:
    found = judge(status, stop_asked=stop, final_step_saved=saved, log_tail=log)
    return found.outcome, found.problem.code if found.problem else None


def test_a_launcher_that_lives_means_a_running_attempt_however_old_its_word() -> None:
    assert verdict(RUNNING) == ("running", None)


def test_a_launcher_gone_without_a_record_means_a_lost_attempt() -> None:
    assert verdict(replace(RUNNING, alive=False)) == ("lost", ErrorCode.ATTEMPT_LOST)


def test_success_is_proven_by_the_last_checkpoint() -> None:
    assert verdict(EXITED, saved=True) == ("succeeded", None)
    assert verdict(EXITED, saved=False) == ("failed", ErrorCode.TRAINING_FAILED)


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    assert verdict(replace(EXITED, exit_code=-15), stop=True) == ("stopped", None)


def test_the_time_limit_is_named() -> None:
    assert verdict(replace(EXITED, reason="time_limit")) == ("failed", ErrorCode.TIME_LIMIT)


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", ErrorCode.TRAINING_OUT_OF_MEMORY),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", ErrorCode.TRAINING_OUT_OF_MEMORY),
        ("OSError: [Errno 28] No space left on device", ErrorCode.DISK_FULL),
        ("Traceback\nValueError: bad row", ErrorCode.TRAINING_FAILED),
    ],
)
def test_the_cause_is_read_from_the_log(log: str, code: ErrorCode) -> None:
    assert diagnose(log, 1, None).code == code


def test_a_silent_kill_is_taken_for_the_hosts_memory_guard() -> None:
    assert diagnose("step 3", None, 9).code == ErrorCode.TRAINING_OUT_OF_MEMORY


def test_the_message_quotes_the_error_itself() -> None:
    assert "ValueError: bad row" in diagnose("x\nValueError: bad row\n", 1, None).message


def test_only_whole_lines_are_read() -> None:
    assert complete_lines(b'{"a":1}\n{"b"') == [b'{"a":1}\n']
    assert complete_lines(b"half") == []


def test_gpus_are_read_from_nvidia_smi_and_what_it_cannot_say_is_left_out() -> None:
    table = "0, NVIDIA H200, 143771\n1, NVIDIA H200, [N/A]\n\nNo devices were found\n"
    assert [(d.index, d.memory_bytes) for d in parse_gpus(table)] == [(0, 143771 << 20)]
