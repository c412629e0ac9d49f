"""The statistics against published examples, and properties that hold for every table."""

from __future__ import annotations

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.statistics import Interval, PairedCounts, mcnemar, paired_difference, verdict, wilson

COUNT = st.integers(min_value=0, max_value=300)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(correct: int, total: int, low: float, high: float) -> None:
    interval = wilson(correct, total)
    assert isclose(interval.low, low, abs_tol=5e-5)
    assert isclose(interval.high, high, abs_tol=5e-5)


@given(st.integers(1, 2000), st.data())
def test_wilson_holds_the_share_and_mirrors(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    interval, mirror = wilson(correct, total), wilson(total - correct, total)
    assert 0 <= interval.low <= correct / total <= interval.high <= 1
    assert interval.low < interval.high
    assert isclose(interval.low, 1 - mirror.high, abs_tol=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 3), (4, 3), (0, -1)])
def test_wilson_refuses_what_is_no_share(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="a share needs"):
        wilson(correct, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_wilson_refuses_a_confidence_in_percent(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, confidence)


@pytest.mark.parametrize(
    ("improved", "regressed", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (5, 0, 0.0625),  # 2 / 2**5: five changed rows can never be significant
        (6, 0, 0.03125),
        # Agresti, Categorical Data Analysis, section 10.1: 86 and 150 changed opinion; z**2 = 17.36, p = 3.1e-5.
        (86, 150, 3.72e-05),
        (2, 10, 158 / 4096),
    ],
)
def test_mcnemar_against_the_binomial(improved: int, regressed: int, p: float) -> None:
    assert isclose(mcnemar(improved, regressed), p, rel_tol=0.01)


@given(COUNT, COUNT)
def test_mcnemar_is_a_symmetric_probability(improved: int, regressed: int) -> None:
    p = mcnemar(improved, regressed)
    assert 0 < p <= 1
    assert p == mcnemar(regressed, improved)


@given(COUNT, COUNT)
def test_mcnemar_falls_as_the_imbalance_grows(fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    assert mcnemar(more + 1, fewer) <= mcnemar(more, fewer)


def test_mcnemar_survives_ten_thousand_changed_rows() -> None:
    assert 0 < mcnemar(5_200, 4_800) < 0.001


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 3)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Airway hyper-responsiveness before and after transplantation: -0.286 (-0.507 to -0.026) in Fagerland, Lydersen
        # and Laake, Statistics in Medicine 33 (2014), 2850-2875.
        (PairedCounts(both_right=1, regressed=7, improved=1, both_wrong=12), -0.507, -0.026),
    ],
)
def test_paired_difference_agrees_with_a_published_example(counts: PairedCounts, low: float, high: float) -> None:
    interval = paired_difference(counts)
    assert isclose(interval.low, low, abs_tol=5e-4), interval
    assert isclose(interval.high, high, abs_tol=5e-4), interval


@st.composite
def tables(draw: st.DrawFn) -> PairedCounts:
    counts = PairedCounts(draw(COUNT), draw(COUNT), draw(COUNT), draw(COUNT))
    return counts if counts.total else PairedCounts(1, 0, 0, 0)


@given(tables())
def test_paired_difference_holds_the_difference_and_mirrors(counts: PairedCounts) -> None:
    interval = paired_difference(counts)
    swapped = paired_difference(PairedCounts(counts.both_right, counts.regressed, counts.improved, counts.both_wrong))
    assert -1 <= interval.low <= counts.difference <= interval.high <= 1
    assert interval.low < interval.high
    assert isclose(interval.low, -swapped.high, abs_tol=1e-12)


@given(tables())
def test_equal_models_never_show_a_difference(counts: PairedCounts) -> None:
    same = PairedCounts(counts.both_right, counts.improved, counts.improved, counts.both_wrong + 1)
    interval = paired_difference(same)
    assert verdict(interval, mcnemar(same.improved, same.regressed)) == "no difference shown"


def test_paired_difference_needs_rows() -> None:
    with pytest.raises(ValueError, match="total > 0"):
        paired_difference(PairedCounts(0, 0, 0, 0))


def test_a_table_has_no_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        PairedCounts(1, -1, 0, 0)


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.1, 0.4, 0.001, "improved"),
        (-0.4, -0.1, 0.001, "regressed"),
        (-0.1, 0.4, 0.001, "no difference shown"),
        (0.1, 0.4, 0.05, "no difference shown"),  # the tests disagree: no claim
        (0.0, 0.4, 0.001, "no difference shown"),
    ],
)
def test_verdict_needs_both(low: float, high: float, p: float, said: str) -> None:
    assert verdict(Interval(low, high), p) == said
