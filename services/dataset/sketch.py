"""Statistics that are made in one pass and merge exactly: numbers with their quantiles, values with their counts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Ratio of a bin's borders: quantiles are right within half of it, one part in a hundred. DDSketch, Masson et al. 2019.
_GAMMA = 1.02
_LOG = math.log(_GAMMA)
# Values at or below this magnitude are zero to the sketch.
_TINY = 1e-9
MAX_VALUES = 10_000
TOP_VALUES = 50
_HISTOGRAM_BINS = 20


@dataclass
class Numbers:
    """Count, mean, deviation, extremes and quantiles of a stream of numbers. Merging in any order gives the same."""

    count: int = 0
    nulls: int = 0
    not_finite: int = 0
    total: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    # Whether all were whole numbers, as lengths are: then a quantile is one too.
    whole: bool = True
    # Bin -> count, by the sign of the values.
    positive: Counter[int] = field(default_factory=Counter[int])
    negative: Counter[int] = field(default_factory=Counter[int])

    def update(self, values: np.ndarray, nulls: int = 0) -> None:
        """Take in (n,) numbers, none of them null."""
        self.nulls += nulls
        values = np.asarray(values, dtype=np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            self.not_finite += int((~finite).sum())
            values = values[finite]
        if not len(values):
            return
        part = Numbers(count=len(values), total=float(values.sum()), low=float(values.min()), high=float(values.max()))
        part.whole = bool((values == np.rint(values)).all())
        part.squares = float(((values - part.total / part.count) ** 2).sum())
        part.zeros = int((np.abs(values) <= _TINY).sum())
        part.positive, part.negative = _bins(values[values > _TINY]), _bins(-values[values < -_TINY])
        self.merge(part)

    def merge(self, other: Numbers) -> None:
        """Take in another's statistics (Chan, Golub and LeVeque 1983 for the squares)."""
        if self.count and other.count:
            gap = other.total / other.count - self.total / self.count
            self.squares += gap * gap * self.count * other.count / (self.count + other.count)
        self.squares += other.squares
        self.count, self.total = self.count + other.count, self.total + other.total
        self.nulls, self.not_finite = self.nulls + other.nulls, self.not_finite + other.not_finite
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        self.whole = self.whole and other.whole
        self.positive.update(other.positive)
        self.negative.update(other.negative)

    def quantile(self, q: float) -> float:
        """The value below which a share `q` of the numbers lies, within 1 %."""
        rank, seen = q * (self.count - 1), 0
        for value, count in self._ordered():
            seen += count
            if seen > rank:
                return min(max(round(value) if self.whole else value, self.low), self.high)
        return self.high

    def summary(self) -> dict[str, Any]:
        """What a person reads."""
        known: dict[str, Any] = {"count": self.count, "nulls": self.nulls}
        if self.not_finite:
            known["not_finite"] = self.not_finite
        if not self.count:
            return known
        names = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
        return {
            **known,
            "min": self.low, "max": self.high, "mean": self.total / self.count,
            "std": math.sqrt(self.squares / self.count),
            **{name: self.quantile(q) for name, q in names.items()},
            "histogram": self._histogram(),
        }  # fmt: skip

    def _ordered(self) -> list[tuple[float, int]]:
        low = [(-_centre(b), n) for b, n in sorted(self.negative.items(), reverse=True)]
        return [*low, (0.0, self.zeros), *((_centre(b), n) for b, n in sorted(self.positive.items()))]

    def _histogram(self) -> dict[str, list[float]]:
        """Counts over equal steps between the extremes; a bin of the sketch counts where its centre lies."""
        edges = np.linspace(self.low, self.high, _HISTOGRAM_BINS + 1)
        values, weights = zip(*self._ordered(), strict=True)
        counts, _ = np.histogram(np.clip(values, self.low, self.high), bins=edges, weights=weights)
        if self.low == self.high:
            return {"edges": [self.low, self.high], "counts": [float(self.count)]}
        return {"edges": edges.tolist(), "counts": counts.tolist()}


def _bins(values: np.ndarray) -> Counter[int]:
    if not len(values):
        return Counter()
    index = np.ceil(np.log(values) / _LOG).astype(np.int64)
    start = int(index.min())
    counts = np.bincount(index - start) if int(index.max()) - start < 100_000 else None
    if counts is None:
        found, sizes = np.unique(index, return_counts=True)
        return Counter(dict(zip(found.tolist(), sizes.tolist(), strict=True)))
    at = np.flatnonzero(counts)
    return Counter(dict(zip((at + start).tolist(), counts[at].tolist(), strict=True)))


def _centre(index: int) -> float:
    return 2 * _GAMMA**index / (1 + _GAMMA)


@dataclass
class Values:
    """How often each value came, exactly, for up to `MAX_VALUES` different ones; beyond, only that there are more."""

    counts: Counter[Any] = field(default_factory=Counter[Any])
    nulls: int = 0
    total: int = 0
    is_full: bool = False

    def update(self, counts: dict[Any, int], nulls: int = 0) -> None:
        """Take in value -> count of one block."""
        self.nulls += nulls
        self.total += sum(counts.values())
        if not self.is_full:
            self.counts.update(counts)
            if len(self.counts) > MAX_VALUES:
                self.is_full = True
                self.counts.clear()

    def merge(self, other: Values) -> None:
        """Take in another's counts."""
        self.update(dict(other.counts), other.nulls)
        if other.is_full:
            self.total += other.total
            self.is_full = True
            self.counts.clear()

    def summary(self) -> dict[str, Any]:
        """The most frequent values with their share of all rows; `distinct` is null where there are too many to count."""
        rows = self.total + self.nulls
        top = sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))[:TOP_VALUES]
        return {
            "count": self.total,
            "nulls": self.nulls,
            "distinct": None if self.is_full else len(self.counts),
            "top": [{"value": value, "count": count, "ratio": count / rows} for value, count in top],
        }
