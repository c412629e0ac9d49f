"""How far a judge's verdicts can be believed, measured on labels that people gave to some of the same answers. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from ltp.core.distributions import normal_quantile, t_quantile
from ltp.core.statistics import Interval


@dataclass(frozen=True)
class AgreementCounts:
    """Answers by what the judge and the label say of them; `false_right`: the judge says right, the label wrong."""

    both_right: int
    false_right: int
    false_wrong: int
    both_wrong: int

    def __post_init__(self) -> None:
        if min(self.both_right, self.false_right, self.false_wrong, self.both_wrong) < 0:
            raise ValueError(f"counts cannot be negative: {self}")

    @property
    def total(self) -> int:
        """All labelled answers."""
        return self.both_right + self.false_right + self.false_wrong + self.both_wrong


def kappa(counts: AgreementCounts, confidence: float = 0.95) -> tuple[float, Interval] | None:
    """Cohen's kappa with its large-sample interval: agreement beyond what the two shares of "right" give by chance.

    None where chance alone agrees always (both say the same of every answer): kappa is not defined there.
    Source: J. Cohen, Educational and Psychological Measurement 20 (1960), 37-46; the error is that of J. Fleiss,
    J. Cohen and B. Everitt, Psychological Bulletin 72 (1969), 323-327. Raises ValueError on no answers.
    """
    n = counts.total
    if n == 0:
        raise ValueError("agreement needs at least one labelled answer")
    table = [[counts.both_right / n, counts.false_right / n], [counts.false_wrong / n, counts.both_wrong / n]]
    judge = [sum(row) for row in table]
    label = [table[0][i] + table[1][i] for i in range(2)]
    seen, chance = table[0][0] + table[1][1], judge[0] * label[0] + judge[1] * label[1]
    if chance == 1:
        return None
    value = (seen - chance) / (1 - chance)
    on = fsum(table[i][i] * (1 - (judge[i] + label[i]) * (1 - value)) ** 2 for i in range(2))
    off = (1 - value) ** 2 * fsum(table[i][1 - i] * (label[i] + judge[1 - i]) ** 2 for i in range(2))
    rest = (value - chance * (1 - value)) ** 2
    error = sqrt(max(0.0, on + off - rest) / n) / (1 - chance)
    half = normal_quantile((1 + confidence) / 2) * error
    return value, Interval(value - half, value + half)


def corrected_mean(
    judged: Sequence[float], labels: Sequence[float | None], clusters: Sequence[Hashable], confidence: float = 0.95
) -> tuple[float, Interval]:
    """The mean label over all answers, from the judge's verdict on each and a label on some, with its interval.

    The judge's mean plus the mean of (label - verdict) over the labelled answers: without bias, whatever the judge's
    errors, where the labelled answers are drawn at random. Answers of one cluster (row) count together; Student's t of
    the labelled clusters. Labels on two clusters at least, or the interval is unknown: (-inf, inf).
    Source: A. Angelopoulos et al., Science 382 (2023), 669-674 (prediction-powered inference), with the errors of both
    parts summed by cluster, so that their covariance is in. Raises ValueError on unequal lengths or no label.
    """
    known = [(label - value) for value, label in zip(judged, labels, strict=True) if label is not None]
    if not known or len(judged) != len(clusters):
        raise ValueError(f"a correction needs labels: {len(known)} of {len(judged)}, {len(clusters)} clusters")
    mean, bias = fsum(judged) / len(judged), fsum(known) / len(known)
    shares: dict[Hashable, float] = {}
    labelled: set[Hashable] = set()
    for value, label, cluster in zip(judged, labels, clusters, strict=True):
        share = (value - mean) / len(judged)
        if label is not None:
            labelled.add(cluster)
            share += (label - value - bias) / len(known)
        shares[cluster] = shares.get(cluster, 0.0) + share
    groups = len(labelled)
    if groups < 2:
        return mean + bias, Interval(float("-inf"), float("inf"))
    error = sqrt(fsum(share**2 for share in shares.values()) * groups / (groups - 1))
    half = t_quantile((1 + confidence) / 2, groups - 1) * error
    return mean + bias, Interval(mean + bias - half, mean + bias + half)
