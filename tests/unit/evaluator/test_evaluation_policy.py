"""What answers say: the cases in which a score would lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.policy import Sample, compare, is_right, score_samples


def samples(rights: list[bool]) -> list[Sample]:
    return [Sample(f"{i:04}", "4" if right else "5", "4", "stop") for i, right in enumerate(rights)]


def test_a_score_counts_and_bounds() -> None:
    score = score_samples(samples([True] * 8 + [False] * 2), "numeric")
    assert (score.correct, score.total, score.accuracy, score.truncated) == (8, 10, 0.8, 0)
    assert 0.49 < score.low < 0.8 < score.high < 0.95


def test_a_truncated_answer_is_wrong_and_counted_apart() -> None:
    cut = Sample("b", "it is 4", "4", "length")
    assert not is_right(cut, "numeric")
    score = score_samples([Sample("a", "4", "4", "stop"), cut], "numeric")
    assert (score.correct, score.total, score.truncated) == (1, 2, 1)


def test_an_unanswered_row_is_neither_right_nor_wrong() -> None:
    score = score_samples([*samples([True, False]), Sample("x", "", "4", error="timeout")], "exact")
    assert (score.correct, score.total) == (1, 2)


def test_a_row_without_reference_is_left_out() -> None:
    assert score_samples([*samples([True]), Sample("x", "4", None, "stop")], "exact").total == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ([], ErrorCode.EVALUATION_EMPTY),
        ([Sample("a", "4", None, "stop")], ErrorCode.EVALUATION_EMPTY),
        ([Sample("a", "", "4", error="HTTP 500")], ErrorCode.EVALUATION_FAILED),
        ([Sample("a", "4", "4", "stop")] * 2, ErrorCode.EVALUATION_FAILED),
        # Once answered and once not is twice all the same.
        ([Sample("a", "4", "4", "stop"), Sample("a", "", "4", error="timeout")], ErrorCode.EVALUATION_FAILED),
    ],
)
def test_there_is_no_accuracy_rather_than_a_wrong_one(bad: list[Sample], code: ErrorCode) -> None:
    with pytest.raises(LtpError) as caught:
        score_samples(bad, "numeric")
    assert caught.value.code == code
    assert caught.value.hint


def test_a_clear_gain_is_said() -> None:
    found = compare(samples([False] * 60 + [True] * 40), samples([True] * 90 + [False] * 10), "numeric")
    assert (found.improved, found.regressed, found.unchanged) == (60, 10, 30)
    assert found.difference == pytest.approx(0.5)
    assert found.difference_low < 0.5 < found.difference_high
    assert found.p_value < 1e-8
    assert found.verdict == "improved"


def test_a_loss_is_said() -> None:
    assert compare(samples([True] * 50), samples([True] * 20 + [False] * 30), "exact").verdict == "regressed"


def test_five_changed_rows_never_suffice() -> None:
    found = compare(samples([False] * 5 + [True] * 5), samples([True] * 10), "exact")
    assert found.p_value == pytest.approx(0.0625)
    assert found.verdict == "no difference shown"


def test_only_rows_that_both_answered_are_compared() -> None:
    base = [*samples([True, False, False]), Sample("only-base", "4", "4", "stop")]
    trained = samples([True, True, True])
    trained[2] = Sample("0002", "", "4", error="timeout")
    found = compare(base, trained, "exact")
    assert found.base.total == found.trained.total == 2
    assert (found.improved, found.unchanged) == (1, 1)


@pytest.mark.parametrize("trained", [[Sample("0000", "4", "4", "stop")], [Sample("zz", "4", "4", "stop")]])
def test_a_comparison_needs_two_common_rows(trained: list[Sample]) -> None:
    with pytest.raises(LtpError, match="needs at least 2") as caught:
        compare(samples([True, True]), trained, "exact")
    assert caught.value.code == ErrorCode.EVALUATION_FAILED


def test_different_references_are_no_pair() -> None:
    other = [Sample("0000", "4", "4", "stop"), Sample("0001", "4", "7", "stop")]
    with pytest.raises(LtpError, match="another reference"):
        compare(samples([True, True]), other, "exact")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_counts_agree_with_the_scores(pairs: list[tuple[bool, bool]]) -> None:
    found = compare(samples([a for a, _ in pairs]), samples([b for _, b in pairs]), "exact")
    assert found.improved + found.regressed + found.unchanged == len(pairs)
    assert found.improved - found.regressed == found.trained.correct - found.base.correct
    assert found.difference == pytest.approx(found.trained.accuracy - found.base.accuracy)
