"""Readiness of a process, asked through a URL, so that the supervisor and a later `ltp status` ask the same way.

`http://…` is ready when it answers 200, `tcp://…` when it accepts, `file://…/postmaster.pid` when Postgres wrote
`ready` there (as pg_ctl reads it: the port already accepts while the server still recovers).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

TIMEOUT_SECONDS = 2.0


async def answers(probe: str) -> bool:
    """Ask once."""
    url = urlsplit(probe)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if url.scheme == "file":
                return _postmaster_ready(Path(unquote(url.path)))
            return await _connects(url)
    except (OSError, TimeoutError):
        return False


async def _connects(url: SplitResult) -> bool:
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        if url.scheme == "tcp":
            return True
        target = f"{url.path}?{url.query}" if url.query else url.path
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode())
        status_line = await reader.readline()
        return status_line.split()[1:2] == [b"200"]
    finally:
        writer.close()


def _postmaster_ready(pid_file: Path) -> bool:
    lines = pid_file.read_text().splitlines()
    return len(lines) >= 8 and lines[7].strip() == "ready"
