"""Statistics of right and wrong answers: the uncertainty of an accuracy, and what two models on the same rows show.

Standard library only. Every function takes counts, because counts are all that binary outcomes leave to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

Verdict = Literal["improved", "regressed", "no difference shown"]


@dataclass(frozen=True)
class Interval:
    """A closed interval; `low <= high`."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside."""
        return value < self.low or value > self.high


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share, within [0, 1].

    It keeps its coverage near 0 and 1, where the textbook interval shrinks to a point: 0 of 10 gives [0, 0.278].
    Source: E. B. Wilson, JASA 22 (1927), 209-212. Raises ValueError unless `0 <= correct <= total` and `total > 0`.
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"a share needs 0 <= correct <= total and total > 0, not {correct} of {total}")
    z = _quantile(confidence)
    share, z2 = correct / total, z * z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z * sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    # At the ends the formula gives 0 and 1 exactly; floating point does not.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar(improved: int, regressed: int) -> float:
    """The exact two-sided p-value that a changed row is as likely to have improved as to have regressed.

    Rows that did not change carry no information about the direction, so only the changed ones count; the p-value is
    twice the smaller tail of Binomial(improved + regressed, 1/2), at most 1. With no changed row it is 1: nothing
    speaks against equality. Below six changed rows it cannot reach 0.05.
    Source: Q. McNemar, Psychometrika 12 (1947), 153-157. Raises ValueError on negative counts.
    """
    if improved < 0 or regressed < 0:
        raise ValueError(f"counts cannot be negative: {improved} improved, {regressed} regressed")
    changed, fewer = improved + regressed, min(improved, regressed)
    # Whole numbers until the last division, so nothing is rounded; each binomial coefficient comes from the one before.
    ways = tail = 1
    for k in range(fewer):
        ways = ways * (changed - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**changed) if changed else 1.0


@dataclass(frozen=True)
class PairedCounts:
    """The same rows answered by two models, as a two-by-two table."""

    both_right: int
    improved: int
    regressed: int
    both_wrong: int

    def __post_init__(self) -> None:
        if min(self.both_right, self.improved, self.regressed, self.both_wrong) < 0:
            raise ValueError(f"counts cannot be negative: {self}")

    @property
    def total(self) -> int:
        """All rows."""
        return self.both_right + self.improved + self.regressed + self.both_wrong

    @property
    def difference(self) -> float:
        """The second model's accuracy minus the first's."""
        return (self.improved - self.regressed) / self.total


def paired_difference(counts: PairedCounts, confidence: float = 0.95) -> Interval:
    """The interval of `counts.difference`, within [-1, 1].

    Newcombe's hybrid score interval: the Wilson intervals of the two accuracies, joined with the correlation of the
    pairs. It stays honest where nothing or everything changed, where Wald's interval has no width.
    Source: R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10. Raises ValueError on no rows.
    """
    n = counts.total
    first, second = counts.both_right + counts.regressed, counts.both_right + counts.improved
    before, after = wilson(first, n, confidence), wilson(second, n, confidence)
    phi = _correlation(counts)
    down_before, up_before = first / n - before.low, before.high - first / n
    down_after, up_after = second / n - after.low, after.high - second / n
    # Not negative in exact arithmetic (|phi| <= 1); `max` absorbs rounding.
    down = sqrt(max(0.0, down_after**2 - 2 * phi * down_after * up_before + up_before**2))
    up = sqrt(max(0.0, up_after**2 - 2 * phi * up_after * down_before + down_before**2))
    return Interval(max(-1.0, counts.difference - down), min(1.0, counts.difference + up))


def verdict(interval: Interval, p_value: float, alpha: float = 0.05) -> Verdict:
    """What may be said: a direction only when the interval excludes 0 and the exact test agrees.

    The two rest on different approximations and can disagree near the edge; a claim then waits for more rows.
    """
    if not interval.excludes(0.0) or p_value >= alpha:
        return "no difference shown"
    return "improved" if interval.low > 0 else "regressed"


def _correlation(counts: PairedCounts) -> float:
    """Newcombe's phi: corrected towards 0 when positive, and 0 when a model is all right or all wrong."""
    a, b, c, d = counts.both_right, counts.improved, counts.regressed, counts.both_wrong
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    product = a * d - b * c
    corrected = max(product - counts.total / 2, 0.0) if product > 0 else product
    return corrected / sqrt(margins)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
