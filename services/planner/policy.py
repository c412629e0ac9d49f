"""The planner's decisions, which the library of the search takes for it: `ltp plan` must answer alike without a platform."""

from __future__ import annotations

from ltp.planning.choice import choose, report
from ltp.planning.replan import replan

__all__ = ["choose", "replan", "report"]
