"""A job's log as a stream: each character once, over outages, resumes, retries, and pieces that end within a character."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import islice
from uuid import UUID

import pytest

from ltp.contracts.questions import LogPart, LogRequest
from ltp.core.errors import ErrorCode, LtpError
from services.gateway import live, log_stream
from services.runner.log_text import lead_in, whole_characters

JOB = UUID(int=1)


class Runner:
    """A runner whose log grows with each question, and which now and then does not answer."""

    def __init__(self, *logs: str, ends_after: int) -> None:
        self.logs = [text.encode() for text in logs]
        self.asked, self.ends_after = 0, ends_after

    async def is_over(self) -> bool:
        return self.asked > self.ends_after

    async def read(self, asked: LogRequest) -> LogPart:
        self.asked += 1
        if self.asked % 4 == 0:
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "nobody answers", "wait")
        there = min(len(self.logs), self.asked // 12)
        number = asked.attempt or there
        if there == 0 or number > there:
            raise LtpError(ErrorCode.NOT_FOUND, "no attempt", "wait")
        # Of a log that is being written only a part is there.
        ended = number < there or self.asked > self.ends_after
        written = self.logs[number - 1]
        written = written if ended else written[: 5 * self.asked]
        data = written[asked.offset : asked.offset + asked.limit]
        if not (ended and asked.offset + len(data) >= len(written)):
            data = whole_characters(data)
        following = asked.offset + len(data)
        over = ended and following >= len(written)
        text = data.decode(errors="replace")
        return LogPart(attempt=number, offset=asked.offset, next_offset=following, text=text, is_over=over)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(live, "_RETRY_SECONDS", 0.001)


def follow(runner: Runner, attempt: int | None, offset: int, *, only: bool) -> AsyncIterator[LogPart]:
    start = LogRequest(job_id=JOB, attempt=attempt, offset=offset, limit=7)
    return log_stream.parts(runner.read, runner.is_over, start, only=only)


LOGS = ("erster Versuch: läuft 🚀 …\n" * 5, "second try: ünïcödé ✓\n" * 4, "третий\n" * 9)


async def test_all_attempts_are_told_once_over_outages() -> None:
    runner = Runner(*LOGS, ends_after=200)
    found = [part async for part in follow(runner, 1, 0, only=False)]
    assert "".join(part.text for part in found) == "".join(LOGS)
    assert all(part.text and "\ufffd" not in part.text for part in found)


async def test_one_attempt_ends_with_it() -> None:
    runner = Runner(*LOGS, ends_after=200)
    assert "".join([part.text async for part in follow(runner, 2, 0, only=True)]) == LOGS[1]


async def test_a_break_after_any_piece_is_resumed_without_loss() -> None:
    pieces = len([part async for part in follow(Runner(*LOGS, ends_after=200), 1, 0, only=False)])
    for count in islice(range(1, pieces), 0, None, 5):
        runner, found = Runner(*LOGS, ends_after=200), list[LogPart]()
        async for part in follow(runner, 1, 0, only=False):
            found.append(part)
            if len(found) == count:
                break
        last = found[-1]
        found += [part async for part in follow(runner, last.attempt, last.next_offset, only=False)]
        assert "".join(part.text for part in found) == "".join(LOGS)


async def test_a_job_without_a_log_ends_when_it_is_over() -> None:
    assert [part async for part in follow(Runner(ends_after=20), None, 0, only=False)] == []


def test_pieces_are_cut_between_characters() -> None:
    data = "aé€🚀z".encode()
    for cut in range(1, len(data) + 1):
        piece = whole_characters(data[:cut])
        assert piece == data[:cut] or piece.decode() + "" == piece.decode()
        assert cut < 2 or "\ufffd" not in piece.decode(errors="replace")
    for begin in range(len(data)):
        assert "\ufffd" not in data[begin + lead_in(data[begin:]) :].decode(errors="replace")
    assert (
        whole_characters(b"\xf0\x9f") == b"\xf0\x9f" and whole_characters(b"") == b"" and whole_characters(b"\x80" * 9)
    )
