"""Points of a run as lines of a stream: those that came together are one line, on whatever way they are sent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway import store_points as store
from services.gateway.live import Line, Read

_MOST = 5000


def point_lines(
    engine: AsyncEngine, project: str, run: str, key: str | None = None, worker: str | None = None
) -> tuple[Hashable, Read]:
    """What `Tails` needs to follow a run: all its followers share one reading. A line is `{"points": [...]}`."""

    async def read(position: int) -> Sequence[Line]:
        found = await store.read_written(engine, project, run, after=position, limit=_MOST, key=key, worker=worker)
        return [(found[0], f'{{"points":[{found[1]}]}}')] if found else []

    return ("points", project, run, key, worker), read
