"""Agreement with labels: kappa against statsmodels to 1e-9 on 1,000 random tables, the corrected mean by simulation."""

from __future__ import annotations

import random

import pytest

from ltp.core.agreement import AgreementCounts, corrected_mean, kappa
from ltp.core.statistics_means import clustered_mean

np = pytest.importorskip("numpy")
raters = pytest.importorskip("statsmodels.stats.inter_rater")

TABLES = 1000
CLOSE = 1e-9


def test_kappa_agrees_with_statsmodels() -> None:
    draw = random.Random(1)
    for _ in range(TABLES):
        a, b, c, d = (draw.randint(0, 200) for _ in range(4))
        if (a + b) * (c + d) * (a + c) * (b + d) == 0:
            continue
        theirs = raters.cohens_kappa(np.array([[a, b], [c, d]]))
        found = kappa(AgreementCounts(a, b, c, d))
        assert found is not None
        value, interval = found
        assert value == pytest.approx(theirs.kappa, abs=CLOSE)
        assert (interval.low, interval.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=CLOSE)


def test_kappa_is_not_defined_where_all_say_the_same() -> None:
    assert kappa(AgreementCounts(5, 0, 0, 0)) is None
    with pytest.raises(ValueError, match="at least one"):
        kappa(AgreementCounts(0, 0, 0, 0))


def test_labels_on_everything_leave_nothing_to_the_judge() -> None:
    draw = random.Random(2)
    for _ in range(TABLES):
        labels = [float(draw.random() < 0.6) for _ in range(draw.randint(3, 40))]
        judged = [float(draw.random() < 0.5) for _ in labels]
        clusters = [draw.randrange(12) if draw.random() < 0.5 else 100 + i for i in range(len(labels))]
        plain = clustered_mean(labels, clusters)
        if plain.clusters < 2:
            continue
        value, interval = corrected_mean(judged, labels, clusters)
        assert value == pytest.approx(plain.value, abs=CLOSE)
        assert (interval.low, interval.high) == pytest.approx((plain.interval.low, plain.interval.high), abs=CLOSE)


@pytest.mark.parametrize("lenient", [0.0, 0.3])
def test_the_corrected_mean_covers_the_truth_where_the_judge_alone_does_not(lenient: float) -> None:
    draw, trials = random.Random(3), 1000
    covered = fooled = narrower = 0
    for _ in range(trials):
        labels: list[float] = [float(draw.random() < 0.55) for _ in range(400)]
        # A lenient judge lets that share of wrong answers pass; any judge errs once in twenty.
        judged = [
            float(draw.random() < 0.95) if label else float(draw.random() < 0.05 + lenient * 0.95) for label in labels
        ]
        known = set(draw.sample(range(400), 80))
        _, interval = corrected_mean(judged, [x if i in known else None for i, x in enumerate(labels)], range(400))
        alone = clustered_mean(judged, range(400)).interval
        only_labels = clustered_mean([labels[i] for i in known], range(80)).interval
        covered += interval.low <= 0.55 <= interval.high
        fooled += not alone.low <= 0.55 <= alone.high
        narrower += interval.high - interval.low < only_labels.high - only_labels.low
    # Three standard errors of 1,000 trials at 95 % are 2.1 points.
    assert 0.929 <= covered / trials <= 0.985
    assert (fooled / trials > 0.9) == (lenient > 0)
    # What the judge is for: the labels alone say less.
    assert narrower / trials > 0.95


def test_what_cannot_be_corrected_is_said() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        corrected_mean([1.0, 0.0], [None, None], [1, 2])
    value, interval = corrected_mean([1.0, 0.0], [0.0, None], [1, 2])
    assert value == -0.5 and interval.low == float("-inf")
