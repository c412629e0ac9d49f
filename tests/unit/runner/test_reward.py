"""Rewards are right, and a scorer that breaks is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltp_verl.reward import compute_score


@pytest.mark.parametrize(
    ("scorer", "answer", "truth", "score"),
    [
        ("exact", " 42\n", "42", 1.0),
        ("exact", "42.", "42", 1.0),
        ("numeric", "It is 1,042.50 in all", "1042.5", 1.0),
        ("numeric", "5, no: -6", "-6.0", 1.0),
        ("numeric", "none", "6", 0.0),
    ],
)
def test_scores(scorer: str, answer: str, truth: str, score: float) -> None:
    assert compute_score("sums", answer, truth, scorer=scorer) == score


def test_an_error_scores_zero_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = tmp_path / "errors.jsonl"
    monkeypatch.setenv("LTP_REWARD_ERRORS", str(errors))
    assert compute_score("sums", "4", None, {"id": "row-1"}) == 0.0
    assert compute_score("sums", "4", "4", scorer="nonsense") == 0.0
    first, second = map(json.loads, errors.read_text().splitlines())
    assert first["row"] == "row-1"
    assert "no scorer is called" in second["error"]
