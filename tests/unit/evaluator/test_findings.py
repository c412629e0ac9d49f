"""What samples amount to, how two evaluations are compared, and when a model is promoted: the cases that could mislead."""

from __future__ import annotations

from uuid import uuid4

import pytest

from ltp.contracts.evaluation import Usage
from ltp.contracts.evaluation_questions import PairQuery
from ltp.contracts.evaluation_spec import ApiModel, RunSpec, StopRule
from ltp.contracts.gate import Gate
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.scoring import choice_letter, normalised, pass_at
from services.evaluator.comparing import Side, compare, pairs_of, word_diff
from services.evaluator.findings import decided, result_of
from services.evaluator.judgement import decide
from services.evaluator.samples import Answer, Failure, Row, Sample, Verdict, judged


def sample(
    i: int, right: bool, labels: dict[str, str] | None = None, index: int = 0, scorer: str = "exact/1"
) -> Sample:
    row = Row(f"{i:04}", ({"role": "user", "content": f"question {i}"},), "4", labels or {})
    return Sample(row, index, judged(right), scorer, Answer("4" if right else "5", "stop"))


def side(samples: list[Sample], dataset: str = "d") -> Side:
    return Side(uuid4(), dataset, {"temperature": 0.0}, {(s.row.row_id, s.index): s for s in samples})


def test_errors_and_unparsable_answers_are_no_part_of_the_accuracy() -> None:
    failed = Sample(Row("x", (), "4"), 0, Verdict("error", None), "exact/1", failure=Failure("timeout", "late"))
    mumbled = Sample(Row("y", (), "4"), 0, Verdict("unparsable", None), "exact/1", Answer("?", "stop"))
    found = result_of([*(sample(i, i < 3) for i in range(4)), failed, mumbled], RunSpec(), Usage())
    assert found.accuracy is not None and found.accuracy.value == 0.75
    assert (found.counts.errors, found.counts.unparsable) == ({"timeout": 1}, 1)
    assert len(found.warnings) == 2


def test_nothing_scored_is_no_accuracy() -> None:
    failed = Sample(Row("x", (), "4"), 0, Verdict("error", None), "exact/1", failure=Failure("timeout", "late"))
    assert result_of([failed], RunSpec(), Usage()).accuracy is None


def test_pass_at_k_is_unbiased() -> None:
    assert pass_at(1, 4, 1) == 0.25
    assert pass_at(2, 4, 1) == pytest.approx(0.5)
    assert pass_at(4, 4, 1) == 1.0
    with pytest.raises(ValueError, match="pass@5"):
        pass_at(5, 4, 1)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("The answer is C.", "C"),
        ("Answer: **D**", "D"),
        ("A. because of rain", "A"),
        ("I think (A) or (B)", None),
        ("A cat", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_letter_chosen(response: str, letter: str | None) -> None:
    assert choice_letter(response, "ABCD") == letter


def test_normalised_ignores_articles_and_punctuation() -> None:
    assert normalised("The Eiffel-Tower!", "eiffel tower")
    assert not normalised("tower", "eiffel tower")


def test_slices_are_corrected_for_their_number() -> None:
    before = [sample(i, False, {"tenant": f"t{i % 20}"}) for i in range(200)]
    after = [sample(i, i % 20 == 0 and i < 140, {"tenant": f"t{i % 20}"}) for i in range(200)]
    found = compare(side(before), side(after), [])
    part = next(s for s in found.slices if s.value == "t0")
    # Seven of ten improved: p = 0.016 alone, and nothing among twenty slices.
    assert part.p_value < 0.05 < part.adjusted_p and part.verdict == "no evidence"
    assert found.improved == 7 and found.verdict == "better"


def test_several_answers_a_row_are_compared_by_clusters() -> None:
    before = [sample(i, False, index=k) for i in range(30) for k in range(3)]
    after = [sample(i, i % 2 == 0, index=k) for i in range(30) for k in range(3)]
    found = compare(side(before), side(after), [])
    assert found.test == "clustered" and found.verdict == "better" and found.rows == 30


@pytest.mark.parametrize("what", ["scorer", "reference", "rows"])
def test_what_is_not_comparable_is_refused(what: str) -> None:
    before = [sample(i, True) for i in range(5)]
    other = {"scorer": [sample(i, True, scorer="numeric/1") for i in range(5)], "rows": [sample(9, True)]}
    row = Row("0000", before[0].row.prompt, "5")
    other["reference"] = [Sample(row, 0, judged(True), "exact/1", Answer("5")), *before[1:]]
    with pytest.raises(LtpError) as caught:
        compare(side(before), side(other[what]), [])
    assert caught.value.code == ErrorCode.COMPARISON_UNSOUND
    assert caught.value.hint


def test_pairs_show_what_regressed_first_and_can_be_filtered() -> None:
    before = [sample(i, i < 2, {"t": "a" if i % 2 else "b"}) for i in range(4)]
    after = [sample(i, i in {1, 2}, {"t": "a" if i % 2 else "b"}) for i in range(4)]
    query = PairQuery(before_id=uuid4(), after_id=uuid4())
    assert [p.change for p in pairs_of(before, after, query)] == ["regressed", "improved", "unchanged", "unchanged"]
    improved = pairs_of(before, after, query.model_copy(update={"change": "improved", "label": "t=b"}))
    assert [p.row_id for p in improved] == ["0002"]


def test_a_diff_names_words() -> None:
    assert word_diff("it is 4", "it is 5 now") == [("kept", "it is "), ("removed", "4"), ("added", "5 now")]
    assert word_diff("", "") == []


def test_a_gate_asks_for_what_it_says() -> None:
    before = side([sample(i, i < 50) for i in range(100)])
    worse = [sample(i, i < 20) for i in range(100)]
    compared = compare(before, side(worse), [])
    found = result_of(worse, RunSpec(), Usage())
    promoted, reasons = decide(Gate(min_accuracy=0.1), found, compared)
    assert not promoted and "worse" in reasons[0]
    same = [sample(i, i < 50) for i in range(100)]
    equal = compare(before, side(same), [])
    assert decide(Gate(min_accuracy=0.4), result_of(same, RunSpec(), Usage()), equal)[0]
    assert not decide(Gate(min_accuracy=0.6), result_of(same, RunSpec(), Usage()), equal)[0]
    assert not decide(Gate(max_loss=0.001), result_of(same, RunSpec(), Usage()), None)[0]


def test_a_stop_rule_waits_for_enough_rows() -> None:
    rule = StopRule(accuracy=0.2, min_rows=10)
    rights = [judged(True)] * 9
    assert decided(rule, rights, [None] * 9) is None
    assert decided(rule, [judged(True)] * 30, [None] * 30)
    against = StopRule(baseline_id=uuid4(), min_rows=5)
    assert decided(against, [judged(True)] * 12, [judged(False)] * 12) == "surely improved after 12 rows"


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "http://user:key@host/v1", "http://host/v1?api_key=k", "host/v1", "http:///v1"]
)
def test_a_url_that_is_none_or_carries_a_key_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        ApiModel(name="m", base_url=url)
