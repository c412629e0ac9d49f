"""Splits depend on the ids alone: not on their order, not on the machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dataset.policy import holdout_codes, positions_of, split_codes

IDS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=40, unique=True
)
HOLDOUT = st.floats(0, 0.99)


def codes(ids: list[str], holdout: float) -> np.ndarray:
    places = positions_of(ids)
    return holdout_codes(places, holdout, places.min(), places.max())


@given(IDS, HOLDOUT)
def test_no_split_stays_empty(ids: list[str], holdout: float) -> None:
    found = set(codes(ids, holdout).tolist())
    assert found == ({0, 1} if holdout > 0 and len(ids) > 1 else {1})


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), HOLDOUT, HOLDOUT)
def test_a_larger_holdout_only_adds_test_rows(row_id: str, one: float, other: float) -> None:
    small, large = (split_codes(positions_of([row_id]), (h, 1 - h))[0] for h in sorted((one, other)))
    assert large <= small


def test_split_is_the_same_everywhere_and_of_the_asked_size() -> None:
    # From SHA-256 of "ltp.split.0" and so on: pinned, so that no machine and no later version splits otherwise.
    assert positions_of(["0", "1", "2"]) == pytest.approx([0.19001548, 0.78604264, 0.68103351], abs=1e-8)
    share = (split_codes(positions_of(map(str, range(10_000))), (0.2, 0.8)) == 0).mean()
    # Five standard deviations of a binomial with n = 10,000 and p = 0.2.
    assert share == pytest.approx(0.2, abs=0.02)
