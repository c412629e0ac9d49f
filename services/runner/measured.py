"""What a run was seen to need, folded from the metrics it wrote. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from statistics import median

from ltp.contracts.attempt import Measured

_GIB = 1024**3
# verl's names; SFT and RL put different words before them.
_ALLOCATED, _RESERVED = "perf/max_memory_allocated_gb", "perf/max_memory_reserved_gb"
_STEP = "perf/time_per_step"


def measured(lines: Iterable[Mapping[str, float]]) -> Measured | None:
    """The peaks over all lines, and the median time of a step after the first, which compiles; None where nothing is told.

    On a processor verl reports zero.
    """
    allocated, reserved, steps, count = 0.0, 0.0, list[float](), 0
    for values in lines:
        peak = _largest(values, _ALLOCATED)
        if not peak:
            continue
        count += 1
        allocated, reserved = max(allocated, peak), max(reserved, _largest(values, _RESERVED))
        steps += [value for name, value in values.items() if name.endswith(_STEP) and isfinite(value)]
    if not count:
        return None
    return Measured(
        allocated_bytes=int(allocated * _GIB),
        reserved_bytes=int(reserved * _GIB) or None,
        step_seconds=median(steps[1:]) if len(steps) > 1 else None,
        lines=count,
    )


def _largest(values: Mapping[str, float], ending: str) -> float:
    return max((value for name, value in values.items() if name.endswith(ending) and isfinite(value)), default=0.0)
