"""How often a caller may ask: a bucket of tokens that fills with time. Pure but for the clock it is given."""

from __future__ import annotations

from dataclasses import dataclass, field

_MOST_CALLERS = 50_000


@dataclass
class Rates:
    """Buckets by caller: `burst` calls at once, `per_second` in the long run."""

    per_second: float
    burst: float
    _levels: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def wait(self, caller: str, at: float) -> float:
        """0 when the call may pass; else after how many seconds the next one may."""
        level, since = self._levels.get(caller, (self.burst, at))
        level = min(self.burst, level + (at - since) * self.per_second)
        passes = level >= 1
        if len(self._levels) >= _MOST_CALLERS:
            # Whoever was quiet has a full bucket anyway.
            self._levels.clear()
        self._levels[caller] = (level - 1 if passes else level, at)
        return 0.0 if passes else (1 - level) / self.per_second
