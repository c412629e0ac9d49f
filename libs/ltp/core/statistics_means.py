"""Means with their uncertainty where rows are not alone: several answers to a prompt, graded scores, paired models.

Answers to one prompt are alike, so they count as one cluster; treating them as independent makes intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Protocol

from ltp.core.distributions import t_cdf, t_quantile
from ltp.core.statistics import Interval


class Draws(Protocol):
    """A source of randomness, passed in so that the same seed gives the same interval (`random.Random`)."""

    def choices(self, population: Sequence[int], *, k: int) -> list[int]: ...


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error over `clusters` independent groups, its interval, and the p-value of "it is 0"."""

    value: float
    error: float
    interval: Interval
    p_value: float
    clusters: int


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> Mean:
    """The mean of values in groups, with the cluster-robust standard error and Student's t of G - 1 degrees.

    The variance is G / (G - 1) times the sum of the squared cluster sums of residuals, over n squared (CR1 for a mean).
    With every value its own cluster this is the textbook standard error. For differences of paired models the values
    are the differences. One cluster leaves the interval unknown: (-inf, inf).
    Source: E. Miller, Adding Error Bars to Evals (2024), §2.2; K.-Y. Liang and S. Zeger, Biometrika 73 (1986), 13-22.
    Raises ValueError on no values or unequal lengths.
    """
    sums, n = _sums(values, clusters)
    mean = fsum(values) / n
    groups = len(sums)
    if groups < 2:
        return Mean(mean, float("inf"), Interval(float("-inf"), float("inf")), 1.0, groups)
    squares = fsum((total - count * mean) ** 2 for total, count in sums)
    error = sqrt(squares * groups / (groups - 1)) / n
    half = t_quantile((1 + confidence) / 2, groups - 1) * error
    without_spread = 1.0 if mean == 0 else 0.0
    p_value = 2 * t_cdf(-abs(mean / error), groups - 1) if error else without_spread
    return Mean(mean, error, Interval(mean - half, mean + half), p_value, groups)


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    draws: Draws,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile interval of the mean over whole clusters drawn with replacement.

    Paired models: pass their differences, so that both answers to a row are drawn together.
    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), §13.3. Raises ValueError as `clustered_mean`.
    """
    sums, _ = _sums(values, clusters)
    groups = len(sums)
    every = range(groups)
    means: list[float] = []
    for _ in range(resamples):
        chosen = [sums[i] for i in draws.choices(every, k=groups)]
        means.append(sum(total for total, _ in chosen) / sum(count for _, count in chosen))
    means.sort()
    tail = (1 - confidence) / 2
    return Interval(_quantile(means, tail), _quantile(means, 1 - tail))


def _sums(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[list[tuple[float, int]], int]:
    """(sum, count) of each cluster, and how many values there are."""
    if not values or len(values) != len(clusters):
        raise ValueError(f"a mean needs values, each with a cluster: {len(values)} values, {len(clusters)} clusters")
    grouped: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        grouped.setdefault(cluster, []).append(value)
    return [(fsum(members), len(members)) for members in grouped.values()], len(values)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics (type 7, the default of NumPy)."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
