"""The conformal interval covers what it promises, and drift is told from noise."""

from __future__ import annotations

from random import Random

import pytest

from ltp.core.calibration import Drift, Pair, drift, interval, median_error


def test_the_interval_covers_new_measurements() -> None:
    source = Random(1)
    pairs = [Pair(100.0, 100.0 * source.gauss(1.03, 0.02)) for _ in range(400)]
    found = interval(pairs[:200], coverage=0.9, floor=0.0)
    inside = sum(found.lower <= pair.measured / pair.predicted <= found.upper for pair in pairs[200:])
    assert 0.84 <= inside / 200 <= 0.96


def test_few_pairs_give_the_prior_and_never_less_than_the_worst() -> None:
    assert interval([]).upper == pytest.approx(1.05)
    assert interval([Pair(100, 120)]).upper == pytest.approx(1.20)
    tight = interval([Pair(100, 100)] * 200)
    assert (tight.lower, tight.upper) == pytest.approx((0.98, 1.02))


def test_drift_alarms_on_a_shift_and_not_on_noise() -> None:
    source, calm = Random(2), Drift()
    for _ in range(200):
        calm = drift(calm, Pair(100, 100 * source.gauss(1, 0.01)))
    assert not calm.alarm
    shifted = calm
    for _ in range(4):
        shifted = drift(shifted, Pair(100, 108))
    assert shifted.alarm and shifted.above > shifted.below


def test_median_error() -> None:
    assert median_error([Pair(101, 100), Pair(100, 100), Pair(150, 100)]) == pytest.approx(0.01)
