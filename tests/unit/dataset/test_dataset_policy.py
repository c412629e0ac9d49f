"""Splits and versions depend on the rows alone: not on their order, not on the machine."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.policy import TEST, TRAIN, assign, collect, split_of, version_of
from services.dataset.rows import Row

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True)
HOLDOUT = st.floats(0, 1)


def rows(ids: list[str]) -> tuple[Row, ...]:
    raws: list[dict[str, Any]] = [{"id": name, "prompt": f"q{name}", "response": f"a{name}"} for name in ids]
    return collect(list(enumerate(raws, start=1))).rows


@given(IDS, HOLDOUT, st.randoms())
def test_version_ignores_the_order_of_rows(ids: list[str], holdout: float, chance: random.Random) -> None:
    first = rows(ids)
    shuffled = chance.sample(ids, len(ids))
    assert version_of(first, assign(ids, holdout)) == version_of(rows(shuffled), assign(shuffled, holdout))


@given(IDS, HOLDOUT)
def test_no_split_stays_empty(ids: list[str], holdout: float) -> None:
    splits = assign(ids, holdout)
    assert set(splits) == set(ids)
    expected = {TRAIN, TEST} if holdout > 0 and len(ids) > 1 else {TRAIN}
    assert set(splits.values()) == expected


@given(st.text(max_size=20), HOLDOUT, HOLDOUT)
def test_a_larger_holdout_only_adds_test_rows(row_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert split_of(row_id, small) == TRAIN or split_of(row_id, large) == TEST


def test_split_is_the_same_everywhere_and_of_the_asked_size() -> None:
    assert [split_of(str(n), 0.5) for n in range(8)] == [split_of(str(n), 0.5) for n in range(8)]
    share = sum(split_of(str(n), 0.2) == TEST for n in range(10_000)) / 10_000
    # Five standard deviations of a binomial with n = 10,000 and p = 0.2.
    assert share == pytest.approx(0.2, abs=0.02)


def test_version_knows_its_content_its_split_and_stays() -> None:
    base = rows(["a", "b"])
    version = version_of(base, {"a": TRAIN, "b": TRAIN})
    assert version[:12] == "2cf9c6709a0a"
    assert version != version_of(base, {"a": TRAIN, "b": TEST})
    assert version != version_of(rows(["a", "c"]), {"a": TRAIN, "c": TRAIN})


def test_copies_are_kept_once_and_counted() -> None:
    raw = {"prompt": "a", "response": "b"}
    found = collect([(1, raw), (2, raw), (3, {"prompt": "c", "response": "d"})])
    assert len(found.rows) == 2 and found.duplicates == 1


def test_an_id_twice_names_both_rows() -> None:
    with pytest.raises(LtpError, match="Row 9 repeats the id 'x' of row 4") as caught:
        collect([(4, {"id": "x", "prompt": "a", "response": "b"}), (9, {"id": "x", "prompt": "c", "response": "d"})])
    assert caught.value.code is ErrorCode.DATASET_ROW_INVALID


def test_mixed_formats_name_the_first_row_of_each() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(LtpError, match=r"row 1 is of format prompt_response .* row 3 is of format messages"):
        collect([(1, {"prompt": "a", "response": "b"}), (3, {"messages": messages})])


def test_no_rows_and_too_many() -> None:
    with pytest.raises(LtpError) as empty:
        collect([])
    assert empty.value.code is ErrorCode.DATASET_EMPTY
    with pytest.raises(LtpError) as large:
        collect(((n, {"prompt": f"{n}", "response": "b"}) for n in range(4)), max_rows=3)
    assert large.value.code is ErrorCode.TOO_LARGE
