"""A judge held against labels: what agrees, what is corrected, and labels that fit no answer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ltp.cli.evaluation_labels import read_labels
from ltp.contracts.evaluation_calibration import Label
from ltp.contracts.evaluation_questions import EvaluationRecord
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import new_id
from services.evaluator.calibrating import calibrate
from services.evaluator.samples import Answer, Message, Row, Sample, Verdict, judged

EVALUATION = EvaluationRecord(
    evaluation_id=new_id(), state="completed", model="m", model_kind="api", spec={}, scorer="judge",
    requested_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def sample(i: int, verdict: Verdict) -> Sample:
    return Sample(Row(f"{i}", (Message(role="user", content="q"),), "a"), 0, verdict, "judge/1", Answer("said"))


def test_a_lenient_judge_is_found_out_and_corrected() -> None:
    # 100 answers all called right; of the 40 labelled, people call 30 right.
    samples = [sample(i, judged(True)) for i in range(100)]
    labels = [Label(row_id=f"{i}", right=i % 4 != 0) for i in range(40)]
    found = calibrate(EVALUATION, samples, labels)
    assert (found.both_right, found.false_right, found.false_wrong, found.both_wrong) == (30, 10, 0, 0)
    assert found.judged.value == 1.0 and found.corrected.value == 0.75
    assert found.corrected.low < 0.75 < found.corrected.high < 1.0
    assert found.specificity is not None and found.specificity.value == 0.0
    assert any("little more than chance" in warning for warning in found.warnings)


def test_what_was_not_judged_is_left_out_and_said() -> None:
    samples = [sample(0, judged(True)), sample(1, judged(False)), sample(2, Verdict("unparsable", None))]
    found = calibrate(EVALUATION, samples, [Label(row_id=str(i), right=i == 0) for i in range(3)])
    assert (found.labelled, found.unjudged) == (2, 1)
    assert any("left out" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [
        ([Label(row_id="7", right=True)], ErrorCode.INVALID_REQUEST, "no answer to row '7'"),
        ([Label(row_id="0", right=True), Label(row_id="0", right=False)], ErrorCode.INVALID_REQUEST, "right and wrong"),
        ([Label(row_id="2", right=True)], ErrorCode.EVALUATION_EMPTY, "None of the 1 labelled"),
    ],
)
def test_labels_that_fit_nothing_are_named(labels: list[Label], code: ErrorCode, said: str) -> None:
    samples = [sample(0, judged(True)), sample(1, judged(False)), sample(2, Verdict("unparsable", None))]
    with pytest.raises(LtpError, match=said) as caught:
        calibrate(EVALUATION, samples, labels)
    assert caught.value.code == code


def test_a_file_of_labels_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text('row_id,sample,response,right\na,0,"two\nlines",yes\nb,1,x,no\nc,0,x,\n')
    assert read_labels(file) == [
        {"row_id": "a", "sample": 0, "right": True},
        {"row_id": "b", "sample": 1, "right": False},
    ]
    file.write_text("row_id,right\na,perhaps\n")
    with pytest.raises(LtpError, match=r"label 1: .*perhaps"):
        read_labels(file)
