"""A judge's verdicts held against labels that people gave to some of the same answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ltp.contracts.evaluation import Estimate
from ltp.contracts.evaluation_calibration import CalibrationRecord, Label
from ltp.contracts.evaluation_questions import EvaluationRecord
from ltp.core.agreement import AgreementCounts, corrected_mean, kappa
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.statistics import wilson
from ltp.core.statistics_means import clustered_mean
from services.evaluator.samples import Sample

_FEW_LABELS, _LITTLE_AGREEMENT = 30, 0.4


def calibrate(evaluation: EvaluationRecord, samples: Sequence[Sample], labels: Sequence[Label]) -> CalibrationRecord:
    """How far verdicts and labels agree, and the accuracy that both together imply for all answers that were judged.

    Raises LtpError INVALID_REQUEST: a label that names no answer, or two for one; EVALUATION_EMPTY: no label on an answer that was judged.
    """
    known = _by_answer(labels, samples)
    judged = [s for s in samples if s.verdict.outcome in {"right", "wrong"}]
    said = [s.verdict.outcome == "right" for s in judged]
    wanted = [known.get((s.row.row_id, s.index)) for s in judged]
    pairs = [(mine, label) for mine, label in zip(said, wanted, strict=True) if label is not None]
    if not pairs:
        message = f"None of the {len(known)} labelled answers was judged right or wrong."
        raise LtpError(ErrorCode.EVALUATION_EMPTY, message, "Label answers of `ltp eval draw`, which draws from those.")
    counts = AgreementCounts(
        *(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    )
    clusters = [s.row.row_id for s in judged]
    values = [float(value) for value in said]
    own = clustered_mean(values, clusters)
    mean, interval = corrected_mean(values, [None if x is None else float(x) for x in wanted], clusters)
    beyond_chance = kappa(counts)
    return CalibrationRecord(
        evaluation_id=evaluation.evaluation_id,
        scorer=evaluation.scorer,
        labelled=counts.total,
        unjudged=len(known) - counts.total,
        both_right=counts.both_right,
        false_right=counts.false_right,
        false_wrong=counts.false_wrong,
        both_wrong=counts.both_wrong,
        agreement=_share(counts.both_right + counts.both_wrong, counts.total),
        kappa=None
        if beyond_chance is None
        else _estimate(beyond_chance[0], *vars(beyond_chance[1]).values(), least=-1.0),
        sensitivity=_share(counts.both_right, counts.both_right + counts.false_wrong),
        specificity=_share(counts.both_wrong, counts.both_wrong + counts.false_right),
        judged=_estimate(own.value, own.interval.low, own.interval.high),
        corrected=_estimate(mean, interval.low, interval.high),
        warnings=_warnings(counts, len(known) - counts.total, None if beyond_chance is None else beyond_chance[0]),
    )


def _by_answer(labels: Sequence[Label], samples: Sequence[Sample]) -> dict[tuple[str, int], bool]:
    there = {(s.row.row_id, s.index) for s in samples}
    known: dict[tuple[str, int], bool] = {}
    for label in labels:
        key = (label.row_id, label.sample)
        name = f"row {label.row_id!r}, sample {label.sample}"
        if key not in there:
            hint = "`ltp eval samples` shows the rows; labels belong to the answers of one evaluation."
            raise LtpError(ErrorCode.INVALID_REQUEST, f"The evaluation has no answer to {name}.", hint)
        if known.setdefault(key, label.right) != label.right:
            raise LtpError(ErrorCode.INVALID_REQUEST, f"{name} is labelled right and wrong.", "Keep one of the labels.")
    return known


def _share(count: int, total: int) -> Estimate | None:
    if total == 0:
        return None
    interval = wilson(count, total)
    return Estimate(value=count / total, low=interval.low, high=interval.high)


def _estimate(value: float, low: float, high: float, *, least: float = 0.0) -> Estimate:
    """Within what the value can be: an interval of a share may reach beyond, and one of a single label is endless."""
    inside = [min(1.0, max(least, x)) for x in (value, low, high)]
    return Estimate(value=inside[0], low=inside[1], high=inside[2])


def _warnings(counts: AgreementCounts, unjudged: int, beyond_chance: float | None) -> list[str]:
    found: list[str] = []
    if counts.total < _FEW_LABELS:
        found.append(f"{counts.total} labels say little; the interval shows how little.")
    if beyond_chance is not None and beyond_chance < _LITTLE_AGREEMENT:
        found.append(
            f"The judge agrees little more than chance would (kappa {beyond_chance:.2f}): trust the corrected value."
        )
    if unjudged:
        found.append(f"{unjudged} labelled answers were not judged right or wrong and are left out.")
    return found
