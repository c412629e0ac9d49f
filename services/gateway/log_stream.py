"""A job's output as it is written, attempt after attempt: each character once, over outages, restarts and retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from ltp.bus.rpc import ask
from ltp.contracts.questions import LogPart, LogRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState
from ltp.service.runtime import Runtime
from services.gateway import store
from services.gateway.live import patiently

Read = Callable[[LogRequest], Awaitable[LogPart]]

# So much of a log is asked for at once.
LOG_BYTES = 65_536
_LOOK_SECONDS = 0.5


async def followed(runtime: Runtime, start: LogRequest, *, only: bool) -> AsyncIterator[LogPart]:
    """A job's output from `start` on, until the job is over, or with `only` its attempt."""

    async def read(asked: LogRequest) -> LogPart:
        return await ask(runtime.client, "runner", "log", asked, LogPart)

    async def is_over() -> bool:
        row = await store.job(runtime.database.engine, start.job_id)
        return row is None or JOB.is_over(JobState(row["state"]))

    async for part in parts(read, is_over, start, only=only):
        yield part


async def parts(
    read: Read, is_over: Callable[[], Awaitable[bool]], start: LogRequest, *, only: bool
) -> AsyncIterator[LogPart]:
    """From `start` to the end of the job, or with `only` of its attempt."""
    asked = start
    while True:
        # Asked first: what was written before the end is read after it.
        over = await patiently(is_over)
        part = await _look(read, asked)
        if part is not None:
            # Of which attempt the log is, is settled by its first part.
            asked = asked.model_copy(update={"attempt": part.attempt, "offset": part.next_offset})
            if part.text:
                yield part
                continue
            if part.is_over and not only:
                following = asked.model_copy(update={"attempt": part.attempt + 1, "offset": 0})
                if await _look(read, following) is not None:
                    asked = following
                    continue
        if over or (only and part is not None and part.is_over):
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _look(read: Read, asked: LogRequest) -> LogPart | None:
    """What is there; None where the attempt is not."""
    try:
        return await patiently(lambda: read(asked))
    except LtpError as error:
        if error.code is ErrorCode.NOT_FOUND:
            return None
        raise
