"""Gives the services of a storm a wall clock that can be moved: by as many seconds as the file named by LTP_CHAOS_CLOCK says.

Python imports a module of this name at its start. Every instant of the services comes from `ltp.store.clock.now`; steady
clocks, and the launchers on their hosts, stay right. (libfaketime moves more, but breaks `time.sleep` of Python 3.11.)
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

from ltp.store import clock

_true_now = clock.now


def now() -> datetime:
    """The instant, moved."""
    return _true_now() + timedelta(seconds=float(Path(os.environ["LTP_CHAOS_CLOCK"]).read_text() or 0))


if "LTP_CHAOS_CLOCK" in os.environ:
    clock.now = now
