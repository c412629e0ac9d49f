"""Turns pairs of predicted and measured values into an interval, and says when the predictions no longer hold.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): the quantile of the residuals' size, with the finite-sample
correction ceil((n + 1) * coverage) / n, covers a new measurement with that probability if it comes from the same source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log


@dataclass(frozen=True)
class Pair:
    """A prediction and what was measured, in the same unit, both above 0."""

    predicted: float
    measured: float

    @property
    def excess(self) -> float:
        """Measured / predicted - 1: above 0 where the prediction was too small."""
        return self.measured / self.predicted - 1


@dataclass(frozen=True)
class Interval:
    """Factors on a prediction: its lower and upper bound. `pairs` says on how many measurements they rest."""

    lower: float
    upper: float
    pairs: int


def interval(pairs: Sequence[Pair], *, coverage: float = 0.95, floor: float = 0.02, prior: float = 0.05) -> Interval:
    """The two-sided conformal interval of the pairs, at least `floor` wide to either side.

    With too few pairs for the coverage asked for, the largest residual or `prior` is taken, whichever is larger.
    """
    up = _bound(sorted(pair.excess for pair in pairs), coverage, floor, prior)
    down = _bound(sorted(-pair.excess for pair in pairs), coverage, floor, prior)
    return Interval(max(0.0, 1 - down), 1 + up, len(pairs))


def _bound(ordered: Sequence[float], coverage: float, floor: float, prior: float) -> float:
    rank = ceil((len(ordered) + 1) * (1 + coverage) / 2)
    if rank > len(ordered):
        return max(prior, ordered[-1] if ordered else 0.0)
    return max(floor, ordered[rank - 1])


def median_error(pairs: Sequence[Pair]) -> float:
    """Median of |predicted / measured - 1|; infinite without pairs."""
    errors = sorted(abs(pair.predicted / pair.measured - 1) for pair in pairs)
    return errors[len(errors) // 2] if errors else inf


@dataclass(frozen=True)
class Drift:
    """A two-sided CUSUM (Page 1954) over log(measured / predicted): how far it has gone, and whether that is too far."""

    above: float = 0.0
    below: float = 0.0
    limit: float = 0.10

    @property
    def alarm(self) -> bool:
        """Whether the predictions have left the measurements, for good and not by one outlier's noise."""
        return max(self.above, self.below) > self.limit


def drift(state: Drift, pair: Pair, *, slack: float = 0.02) -> Drift:
    """The test's state after one more pair; deviations up to `slack` are taken as noise."""
    deviation = log(pair.measured / pair.predicted)
    above = max(0.0, state.above + deviation - slack)
    below = max(0.0, state.below - deviation - slack)
    return Drift(above, below, state.limit)
