"""Two evaluations of the same rows: the verdict, its slices, and the rows side by side. Pure."""

from __future__ import annotations

import difflib
import math
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ltp.contracts.evaluation import Estimate
from ltp.contracts.evaluation_questions import (
    Change,
    ComparisonRecord,
    PairQuery,
    PairRecord,
    SliceComparison,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.statistics import PairedCounts, mcnemar, paired_difference
from ltp.core.statistics_means import bootstrap_mean, clustered_mean
from ltp.core.statistics_power import minimum_detectable_gain, rows_needed
from ltp.core.statistics_sequential import holm
from services.evaluator.findings import accuracy
from services.evaluator.samples import Sample

ALPHA = 0.05
_FEWEST_CHANGED = 6
_MOST_SLICES = 50
_MOST_WORDS = 4000
Said = Literal["better", "worse", "no evidence"]


@dataclass(frozen=True)
class Side:
    """One of the two evaluations: its answers, and what must be equal for a comparison to mean something."""

    evaluation_id: UUID
    dataset: str
    sampling: Mapping[str, Any]
    samples: Mapping[tuple[str, int], Sample]

    @classmethod
    def of(cls, row: Mapping[Any, Any], samples: Sequence[Sample]) -> Side:
        """From the stored evaluation."""
        dataset = row["dataset"] or {}
        name = f"{dataset.get('name')}@{str(dataset.get('version'))[:12]}/{dataset.get('split_name')}"
        sampling = dict((row["spec"] or {}).get("sampling") or {})
        by_key = {(s.row.row_id, s.index): s for s in samples if s.verdict.value is not None}
        return cls(row["evaluation_id"], name, sampling, by_key)


@dataclass(frozen=True)
class _Pairs:
    """The values of rows that both models were scored on."""

    rows: list[str]
    before: list[float]
    after: list[float]

    @property
    def differences(self) -> list[float]:
        return [after - before for before, after in zip(self.before, self.after, strict=True)]

    def changes(self) -> dict[Change, int]:
        signs = [change_of(before, after) for before, after in zip(self.before, self.after, strict=True)]
        return {
            "improved": signs.count("improved"),
            "regressed": signs.count("regressed"),
            "unchanged": signs.count("unchanged"),
        }


@dataclass(frozen=True)
class _Tested:
    difference: Estimate
    p_value: float
    test: Literal["mcnemar", "clustered"]


def change_of(before: float | None, after: float | None) -> Change:
    """Which way a row went."""
    if before is None or after is None or math.isclose(before, after, abs_tol=1e-12):
        return "unchanged"
    return "improved" if after > before else "regressed"


def compare(before: Side, after: Side, labels: Sequence[str]) -> ComparisonRecord:
    """The paired verdict over the rows both were scored on, and over each slice (all labels when none is named).

    Raises LtpError COMPARISON_UNSOUND: other questions, references or scorers, or fewer than two rows in common.
    """
    keys = sorted(before.samples.keys() & after.samples.keys())
    warnings = _check(before, after, keys)
    pairs = _pairs(before, after, keys)
    tested, changes = _test(pairs), pairs.changes()
    said = _verdict(tested.difference, tested.p_value)
    mean_before, _ = accuracy([before.samples[key] for key in keys])
    mean_after, _ = accuracy([after.samples[key] for key in keys])
    assert mean_before is not None
    assert mean_after is not None
    drawn = bootstrap_mean(pairs.differences, pairs.rows, random.Random(0), resamples=1000)  # noqa: S311 - statistics
    changed = (changes["improved"] + changes["regressed"]) / len(keys)
    return ComparisonRecord(
        before_id=before.evaluation_id,
        after_id=after.evaluation_id,
        verdict=said,
        headline=_headline(said, tested),
        before=mean_before,
        after=mean_after,
        difference=tested.difference,
        bootstrap=Estimate(value=tested.difference.value, low=drawn.low, high=drawn.high),
        test=tested.test,
        p_value=tested.p_value,
        rows=len(set(pairs.rows)),
        only_before=len(before.samples.keys() - after.samples.keys()),
        only_after=len(after.samples.keys() - before.samples.keys()),
        improved=changes["improved"],
        regressed=changes["regressed"],
        unchanged=changes["unchanged"],
        minimum_detectable=minimum_detectable_gain(len(keys), changed) if changed > 0 and len(keys) <= 20_000 else None,
        rows_advised=_advice(said, changed, tested.difference.value),
        slices=_slices(before, after, keys, labels),
        warnings=warnings,
    )


def pairs_of(before: Sequence[Sample], after: Sequence[Sample], query: PairQuery) -> list[PairRecord]:
    """Rows side by side, those that changed first; the first answer where there are several. The diff is filled in by page."""
    old = {sample.row.row_id: sample for sample in before if sample.index == 0}
    found = [
        _pair(old[sample.row.row_id], sample)
        for sample in after
        if sample.index == 0 and sample.row.row_id in old and _wanted(old[sample.row.row_id], sample, query)
    ]
    order: dict[Change, int] = {"regressed": 0, "improved": 1, "unchanged": 2}
    return sorted(found, key=lambda pair: (order[pair.change], pair.row_id))


def with_diff(pair: PairRecord) -> PairRecord:
    """The pair with the words that stayed, went and came."""
    return pair.model_copy(update={"diff": word_diff(pair.before_response, pair.after_response)})


def word_diff(before: str, after: str) -> list[tuple[Literal["kept", "removed", "added"], str]]:
    """How a text became another, in runs of whole words. Very long texts are one removal and one addition."""
    old, new = re.findall(r"\s+|\S+", before), re.findall(r"\s+|\S+", after)
    if max(len(old), len(new)) > _MOST_WORDS:
        return [("removed", before), ("added", after)]
    found: list[tuple[Literal["kept", "removed", "added"], str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(("kept", "".join(old[a:b])))
            continue
        if b > a:
            found.append(("removed", "".join(old[a:b])))
        if d > c:
            found.append(("added", "".join(new[c:d])))
    return found


def _check(before: Side, after: Side, keys: Sequence[tuple[str, int]]) -> list[str]:
    if before.dataset != after.dataset and not keys:
        raise _unsound(f"{before.dataset} and {after.dataset} have no row in common.", "Evaluate on one dataset.")
    if len(keys) < 2:
        raise _unsound(
            f"Only {len(keys)} sample was scored in both evaluations; a comparison needs at least 2.",
            "Evaluate both models on the same split; look at what failed with `ltp eval samples`.",
        )
    for key in keys:
        old, new = before.samples[key], after.samples[key]
        if list(old.row.prompt) != list(new.row.prompt) or old.row.answer != new.row.answer:
            what = "prompt" if list(old.row.prompt) != list(new.row.prompt) else "reference"
            raise _unsound(f"Row {key[0]!r} has another {what} in each evaluation.", "Evaluate both on one version.")
        if old.scorer != new.scorer:
            message = f"The evaluations were scored by {old.scorer} and by {new.scorer}."
            raise _unsound(message, "Rescore one of them: `ltp eval rescore ID --scorer …` generates nothing.")
    found: list[str] = []
    if before.dataset != after.dataset:
        found.append(f"Different datasets ({before.dataset}, {after.dataset}): only the rows in common are compared.")
    found += [
        f"{name} differs: {before.sampling.get(name)} and {after.sampling.get(name)}."
        for name in sorted({*before.sampling, *after.sampling} - {"samples"})
        if before.sampling.get(name) != after.sampling.get(name)
    ]
    left_out = len(before.samples.keys() ^ after.samples.keys())
    if left_out:
        found.append(f"{left_out} samples were scored in one evaluation only and are left out.")
    return found


def _pairs(before: Side, after: Side, keys: Sequence[tuple[str, int]]) -> _Pairs:
    return _Pairs(
        [key[0] for key in keys],
        [before.samples[key].verdict.value or 0.0 for key in keys],
        [after.samples[key].verdict.value or 0.0 for key in keys],
    )


def _test(pairs: _Pairs) -> _Tested:
    """Exact McNemar where rows are single yes or no, else the clustered t-test of the differences."""
    plain = len(set(pairs.rows)) == len(pairs.rows) and {*pairs.before, *pairs.after} <= {0.0, 1.0}
    if not plain:
        mean = clustered_mean(pairs.differences, pairs.rows)
        low, high = max(-1.0, mean.interval.low), min(1.0, mean.interval.high)
        return _Tested(Estimate(value=mean.value, low=low, high=high), mean.p_value, "clustered")
    table = list(zip(pairs.before, pairs.after, strict=True))
    counts = PairedCounts(table.count((1, 1)), table.count((0, 1)), table.count((1, 0)), table.count((0, 0)))
    interval = paired_difference(counts)
    estimate = Estimate(value=counts.difference, low=interval.low, high=interval.high)
    return _Tested(estimate, mcnemar(counts.improved, counts.regressed), "mcnemar")


def _verdict(difference: Estimate, p_value: float) -> Said:
    """A direction only when the interval excludes 0 and the test agrees."""
    if p_value >= ALPHA or difference.low <= 0 <= difference.high:
        return "no evidence"
    return "better" if difference.low > 0 else "worse"


def _headline(said: Said, tested: _Tested) -> str:
    d = tested.difference
    return f"{said}: {d.value:+.1%} [{d.low:+.1%}, {d.high:+.1%}], p = {tested.p_value:.2g} ({tested.test})"


def _advice(said: Said, changed: float, difference: float) -> int | None:
    if said != "no evidence" or difference == 0:
        return None
    try:
        return rows_needed(changed, difference)
    except ValueError:
        return None


def _slices(before: Side, after: Side, keys: Sequence[tuple[str, int]], labels: Sequence[str]) -> list[SliceComparison]:
    groups: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for key in keys:
        for label, value in after.samples[key].row.labels.items():
            if not labels or label in labels:
                groups[label, value].append(key)
    values: dict[str, int] = defaultdict(int)
    for label, _ in groups:
        values[label] += 1
    # A label that names almost every row is no slice.
    groups = {g: ks for g, ks in groups.items() if labels or (1 < values[g[0]] <= _MOST_SLICES and len(ks) >= 2)}
    parts = [(group, _pairs(before, after, members)) for group, members in sorted(groups.items())]
    tests = [_test(pairs) for _, pairs in parts]
    adjusted = holm([tested.p_value for tested in tests])
    return [_slice(group, pairs, tested, p) for (group, pairs), tested, p in zip(parts, tests, adjusted, strict=True)]


def _slice(group: tuple[str, str], pairs: _Pairs, tested: _Tested, adjusted: float) -> SliceComparison:
    changes = pairs.changes()
    return SliceComparison(
        label=group[0],
        value=group[1],
        rows=len(set(pairs.rows)),
        before=math.fsum(pairs.before) / len(pairs.before),
        after=math.fsum(pairs.after) / len(pairs.after),
        **changes,
        difference=tested.difference,
        p_value=tested.p_value,
        adjusted_p=adjusted,
        verdict=_verdict(tested.difference, adjusted),
        too_few=tested.test == "mcnemar" and changes["improved"] + changes["regressed"] < _FEWEST_CHANGED,
    )


def _wanted(old: Sample, new: Sample, query: PairQuery) -> bool:
    if query.change is not None and change_of(old.verdict.value, new.verdict.value) != query.change:
        return False
    if query.label is not None:
        name, _, value = query.label.partition("=")
        if new.row.labels.get(name) != value:
            return False
    if query.before_outcome is not None and old.verdict.outcome != query.before_outcome:
        return False
    if query.after_outcome is not None and new.verdict.outcome != query.after_outcome:
        return False
    if not query.contains:
        return True
    hay = " ".join((_last(new), _text(old), _text(new))).casefold()
    return query.contains.casefold() in hay


def _pair(old: Sample, new: Sample) -> PairRecord:
    return PairRecord(
        row_id=new.row.row_id,
        prompt=_last(new),
        reference=new.row.answer,
        labels=dict(new.row.labels),
        change=change_of(old.verdict.value, new.verdict.value),
        before_response=_text(old),
        after_response=_text(new),
        before_value=old.verdict.value,
        after_value=new.verdict.value,
        before_outcome=old.verdict.outcome,
        after_outcome=new.verdict.outcome,
        diff=[],
    )


def _last(sample: Sample) -> str:
    return sample.row.prompt[-1]["content"] if sample.row.prompt else ""


def _text(sample: Sample) -> str:
    return sample.answer.text if sample.answer is not None else f"({sample.failure.kind})" if sample.failure else ""


def _unsound(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.COMPARISON_UNSOUND, message, hint)
