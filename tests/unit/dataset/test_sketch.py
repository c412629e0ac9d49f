"""Statistics made in parts and merged are those of the whole, and quantiles are right within one part in a hundred."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.language import language_of
from services.dataset.sketch import Numbers, Values

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=200)


def made(values: list[float]) -> Numbers:
    found = Numbers()
    found.update(np.array(values))
    return found


@given(NUMBERS, NUMBERS)
def test_merging_is_as_taking_all_at_once(one: list[float], other: list[float]) -> None:
    merged, whole = made(one), made(one + other)
    merged.merge(made(other))
    for name, value in whole.summary().items():
        if name != "histogram":
            assert merged.summary()[name] == pytest.approx(value, rel=1e-6, abs=1e-3), name
    assert sum(merged.summary()["histogram"]["counts"]) == len(one) + len(other)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 100_000), min_size=50, max_size=400))
def test_quantiles_and_moments_are_numpys(values: list[int]) -> None:
    found = made([float(v) for v in values]).summary()
    assert found["mean"] == pytest.approx(np.mean(values)) and found["std"] == pytest.approx(np.std(values))
    for name, q in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95)):
        exact = np.quantile(values, q, method="lower"), np.quantile(values, q, method="higher")
        assert exact[0] * 0.98 - 1 <= found[name] <= exact[1] * 1.02 + 1


def test_what_is_not_finite_is_counted_apart() -> None:
    found = made([1.0, float("nan"), float("inf")]).summary()
    assert (found["count"], found["not_finite"], found["max"]) == (1, 2, 1.0)


def test_values_stop_at_too_many() -> None:
    found = Values()
    found.update({"a": 2, "b": 1}, nulls=1)
    assert found.summary()["top"][0] == {"value": "a", "count": 2, "ratio": 0.5}
    found.update({str(n): 1 for n in range(20_000)})
    assert found.summary()["distinct"] is None and found.summary()["count"] == 20_003


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The cat sat on the mat and it was happy with this.", "en"),
        ("Der Hund ist nicht auf dem Sofa und die Katze auch nicht.", "de"),
        ("Le chat est sur la table et il ne mange pas.", "fr"),
        ("请解释一下这个问题", "zh"),
        ("これは日本語です", "ja"),
        ("Привет, как дела?", "ru"),
        ("1234 == 5678;", "und"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert language_of(text) == code
