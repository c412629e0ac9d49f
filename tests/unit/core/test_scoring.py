"""The scorers on what models really write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.scoring import SCORERS, exact, numeric, score


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("Paris", "paris", True),
        ("  Paris.\n", "Paris", True),
        ("New   York!", "new york", True),
        ("Ｐａｒｉｓ", "paris", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("STRASSE", "straße", True),
        ("It is Paris", "Paris", False),
        ("", "Paris", False),
        ("3.5", "35", False),
    ],
)
def test_exact(response: str, reference: str, right: bool) -> None:
    assert exact(response, reference) is right


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("71", "71", True),
        ("44 + 27 = 71", "71", True),
        ("The answer is 71.", "71", True),
        ("71, I think", "71", True),
        ("First 71, then 72.", "71", False),
        ("-4", "-4", True),
        ("5 - 9 = -4", "-4", True),
        ("\u22124", "-4", True),
        ("9-4", "4", True),
        ("9 -4", "-4", True),
        ("between 3-5", "5", True),
        ("+7", "7", True),
        ("$1,234,567.50", "1234567.5", True),
        ("1,234", "1234", True),
        ("1, 2, 34", "34", True),
        ("7.0", "7", True),
        ("0.50", ".5", True),
        ("0.3333333", "0.333333", True),
        ("0.34", "0.333333", False),
        ("0", "0.0000000001", True),
        ("499999", "500000", False),
        ("x2", "2", True),
        ("1e3", "1000", False),
        ("no number", "71", False),
        ("71", "none", False),
        ("", "", False),
        ("#### 1,234", "#### 1234", True),
    ],
)
def test_numeric(response: str, reference: str, right: bool) -> None:
    assert numeric(response, reference) is right


@given(st.integers(-(10**12), 10**12))
def test_numeric_reads_every_whole_number(value: int) -> None:
    assert numeric(f"So the result is {value:,}.", str(value))


@given(st.text(), st.text())
def test_every_scorer_is_total(response: str, reference: str) -> None:
    assert all(scorer(response, reference) in (True, False) for scorer in SCORERS.values())


@given(st.text())
def test_exact_is_reflexive(text: str) -> None:
    assert exact(text, text)


def test_score_finds_the_scorer_by_name() -> None:
    assert score("numeric", "= 4", "4")
    assert not score("exact", "= 4", "4")


def test_an_unknown_scorer_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'fuzzy'; there are: exact, numeric"):
        score("fuzzy", "a", "a")
