"""What answers say about a model, and about two of them: pure decisions, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltp.contracts.evaluation import Score
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.scoring import score
from ltp.core.statistics import PairedCounts, Verdict, mcnemar, paired_difference, verdict, wilson


@dataclass(frozen=True)
class Sample:
    """A row's answer. `error` means that the model never answered: neither right nor wrong."""

    row_id: str
    response: str
    reference: str | None
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two models on the rows that both answered; the fields of `ComparisonCompleted`."""

    base: Score
    trained: Score
    improved: int
    regressed: int
    unchanged: int
    difference: float
    difference_low: float
    difference_high: float
    p_value: float
    verdict: Verdict


def is_right(sample: Sample, scorer: str) -> bool:
    """Whether the answer is right. One that was cut off is not: its last number is no conclusion."""
    if sample.reference is None or sample.error is not None or sample.finish_reason == "length":
        return False
    return score(scorer, sample.response, sample.reference)


def score_samples(samples: Sequence[Sample], scorer: str) -> Score:
    """The accuracy over the answered rows that carry a reference.

    Raises LtpError: EVALUATION_EMPTY when no row has a reference, EVALUATION_FAILED when none was answered or an id
    comes twice.
    """
    return _score(list(_usable(samples).values()), scorer)


def compare(base: Sequence[Sample], trained: Sequence[Sample], scorer: str) -> Comparison:
    """The paired verdict on the rows that both models answered.

    Raises LtpError: as `score_samples`, and EVALUATION_FAILED with fewer than two common rows or when the references
    of a row differ.
    """
    before, after = _usable(base), _usable(trained)
    common = [row_id for row_id in before if row_id in after]
    if len(common) < 2:
        raise _failed(
            f"Only {len(common)} row was answered by both models; a comparison needs at least 2.",
            "Evaluate both models on the same split with the same max_rows.",
        )
    for row_id in common:
        if before[row_id].reference != after[row_id].reference:
            raise _failed(f"Row {row_id!r} has another reference in each evaluation.", "Evaluate on one version.")
    pairs = [(is_right(before[row_id], scorer), is_right(after[row_id], scorer)) for row_id in common]
    counts = PairedCounts(
        both_right=pairs.count((True, True)),
        improved=pairs.count((False, True)),
        regressed=pairs.count((True, False)),
        both_wrong=pairs.count((False, False)),
    )
    return _comparison(
        _score([before[row_id] for row_id in common], scorer),
        _score([after[row_id] for row_id in common], scorer),
        counts,
    )


def _comparison(base: Score, trained: Score, counts: PairedCounts) -> Comparison:
    interval = paired_difference(counts)
    p_value = mcnemar(counts.improved, counts.regressed)
    return Comparison(
        base=base,
        trained=trained,
        improved=counts.improved,
        regressed=counts.regressed,
        unchanged=counts.both_right + counts.both_wrong,
        difference=counts.difference,
        difference_low=interval.low,
        difference_high=interval.high,
        p_value=p_value,
        verdict=verdict(interval, p_value),
    )


def _score(samples: Sequence[Sample], scorer: str) -> Score:
    correct, total = sum(is_right(sample, scorer) for sample in samples), len(samples)
    interval = wilson(correct, total)
    return Score(
        accuracy=correct / total,
        low=interval.low,
        high=interval.high,
        correct=correct,
        total=total,
        truncated=sum(sample.finish_reason == "length" for sample in samples),
    )


def _usable(samples: Sequence[Sample]) -> dict[str, Sample]:
    """The answered samples with a reference, by row; at least one."""
    referenced = [sample for sample in samples if sample.reference is not None]
    if not referenced:
        raise LtpError(
            ErrorCode.EVALUATION_EMPTY,
            f"None of the {len(samples)} rows has a reference answer, so nothing can be scored.",
            "Upload the dataset with a column 'answer', or choose another split.",
        )
    answered = {sample.row_id: sample for sample in referenced if sample.error is None}
    if not answered:
        raise _failed(
            f"None of the {len(referenced)} rows was answered; the first error: {referenced[0].error}",
            "There is no accuracy, rather than one of 0. Look at the inference server's log.",
        )
    if len({sample.row_id for sample in referenced}) < len(referenced):
        raise _failed("A row id comes twice among the samples.", "Freeze the dataset again; ids must be unique.")
    return answered


def _failed(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.EVALUATION_FAILED, message, hint)
