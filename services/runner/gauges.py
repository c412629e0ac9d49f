"""What the runner reads from its tables at a scrape: attempts by state and by why they ended, open alarms, and the room on its disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.contracts.alarm import Severity
from ltp.service.exposition import Reading
from ltp.telemetry.metrics import gauge, replace_all
from services.runner.alarms_store import alarms
from services.runner.pulse import read_pulses
from services.runner.store import attempts

ATTEMPTS = gauge("ltp_attempts", "Attempts by state.", "state")
ENDED_BY = gauge(
    "ltp_attempts_failed", "Attempts that failed or were lost, by cause; falls only when they are deleted.", "cause"
)
ALARMS = gauge("ltp_training_alarms", "Open alarms of running attempts.", "severity")
DISK_FREE = gauge("ltp_data_disk_free_bytes", "Free bytes of the disk of the data directory.")
DISK_SIZE = gauge("ltp_data_disk_size_bytes", "Size of the disk of the data directory.")


def readings(root: Callable[[], Path]) -> dict[str, Reading]:
    """The readings by name."""

    async def read_disk(_: AsyncConnection) -> None:
        usage = shutil.disk_usage(root())
        DISK_FREE.set(usage.free)
        DISK_SIZE.set(usage.total)

    return {"attempts": _read_attempts, "alarms": _read_alarms, "pulses": read_pulses, "disk": read_disk}


async def _read_attempts(connection: AsyncConnection) -> None:
    cause = attempts.c.problem["code"].astext
    query = select(attempts.c.state, cause, func.count()).group_by(attempts.c.state, cause)
    states, causes = dict[str, int](), dict[str, int]()
    for state, code, count in (await connection.execute(query)).all():
        states[state] = states.get(state, 0) + count
        if code is not None and state in {"failed", "lost"}:
            causes[code] = causes.get(code, 0) + count
    replace_all(ATTEMPTS, [({"state": state}, count) for state, count in states.items()])
    replace_all(ENDED_BY, [({"cause": code}, count) for code, count in causes.items()])


async def _read_alarms(connection: AsyncConnection) -> None:
    query = select(alarms.c.severity, func.count().label("open")).where(alarms.c.cleared_at.is_(None))
    query = query.group_by(alarms.c.severity)
    found = {row.severity: int(row.open) for row in (await connection.execute(query)).all()}
    replace_all(ALARMS, [({"severity": severity}, found.get(severity, 0)) for severity in get_args(Severity)])
