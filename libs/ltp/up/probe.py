"""Readiness of a process, asked through a URL, so that the supervisor and a later `ltp status` ask the same way.

`http://…` is ready when it answers 200, `tcp://…` when it accepts, `file://…/postmaster.pid` when Postgres wrote
`ready` there (as pg_ctl reads it: the port already accepts while the server still recovers).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

TIMEOUT_SECONDS = 2.0
# A busy process is not a silent one.
SILENCE_SECONDS = 5.0


async def answers(probe: str) -> bool:
    """Ask once whether the process is ready."""
    url = urlsplit(probe)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if url.scheme == "file":
                return _postmaster_ready(Path(unquote(url.path)))
            return await (_accepts(url) if url.scheme == "tcp" else _is_ready(url))
    except (OSError, TimeoutError):
        return False


async def is_silent(probe: str) -> bool:
    """Ask once whether the process says nothing at all: it hangs. What has no voice over HTTP is never called silent."""
    url = urlsplit(probe)
    if url.scheme != "http":
        return False
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await _status(url) is None
    except (OSError, TimeoutError):
        return True


async def _accepts(url: SplitResult) -> bool:
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.close()
    return True


async def _is_ready(url: SplitResult) -> bool:
    return await _status(url) == b"200"


async def _status(url: SplitResult) -> bytes | None:
    """The status of the answer; None when the other side hung up without one."""
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        target = f"{url.path}?{url.query}" if url.query else url.path
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode())
        status_line = await reader.readline()
        return next(iter(status_line.split()[1:2]), None)
    finally:
        writer.close()


def _postmaster_ready(pid_file: Path) -> bool:
    lines = pid_file.read_text().splitlines()
    return len(lines) >= 8 and lines[7].strip() == "ready"
