"""What the samples of one evaluation amount to: counts, an accuracy with its interval, pass@k, warnings. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ltp.contracts.evaluation import Counts, Estimate, Result, Score, Usage
from ltp.contracts.evaluation_spec import LikelihoodScorer, RunSpec, StopRule
from ltp.core.scoring import pass_at
from ltp.core.statistics import wilson
from ltp.core.statistics_means import clustered_mean
from ltp.core.statistics_sequential import confidence_sequence, decide
from services.evaluator.cautions import cautions, english
from services.evaluator.samples import Sample, Verdict

_KS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256)


def scored(samples: Iterable[Sample]) -> list[Sample]:
    """The samples an accuracy rests on."""
    return [sample for sample in samples if sample.verdict.outcome in {"right", "wrong"}]


def count(samples: Iterable[Sample], without_reference: int = 0) -> Counts:
    """What became of the samples."""
    found: dict[str, int] = defaultdict(int)
    errors: dict[str, int] = defaultdict(int)
    for sample in samples:
        found[sample.verdict.outcome] += 1
        if sample.failure is not None:
            errors[sample.failure.kind] += 1
        found["truncated"] += sample.truncated
        spoke = sample.answer is not None and not sample.answer.text.strip() and "logprob" not in sample.answer.detail
        found["empty"] += spoke
    return Counts(
        right=found["right"],
        wrong=found["wrong"],
        truncated=found["truncated"],
        errors=dict(errors),
        unparsable=found["unparsable"],
        empty=found["empty"],
        without_reference=found["no_reference"] + without_reference,
    )


def result_of(
    samples: Sequence[Sample], spec: RunSpec, usage: Usage, *, without_reference: int = 0, stopped: str | None = None
) -> Result:
    """The finding. Where nothing could be scored there is no accuracy."""
    counts = count(samples, without_reference)
    kept = scored(samples)
    estimate, method = accuracy(kept)
    said = cautions(counts, len(samples), spec)
    return Result(
        accuracy=estimate,
        method="clustered" if method == "clustered" else "wilson",
        counts=counts,
        usage=usage,
        rows=len({sample.row.row_id for sample in samples}),
        pass_at=passes(kept),
        perplexity=perplexity(samples) if isinstance(spec.scorer, LikelihoodScorer) else None,
        stopped=stopped,
        warnings=[english(one) for one in said],
        warnings_said=said,
    )


def price_of(spec: RunSpec) -> Mapping[str, float] | None:
    """What the judging model charges, where there is one and the user said so."""
    price = getattr(getattr(spec.scorer, "model", None), "price", None)
    return None if price is None else price.model_dump()


def usage_of(
    samples: Iterable[Sample],
    price: Mapping[str, float] | None,
    judge_price: Mapping[str, float] | None,
    *,
    requests: int = 0,
    retries: int = 0,
    seconds: float = 0.0,
) -> Usage:
    """What the stored samples took, those of an attempt that was interrupted too; stored answers cost nothing again."""
    asked, judge, cached = [0, 0], [0, 0], 0
    for sample in samples:
        cached += sample.cached
        if sample.answer is not None and not sample.cached:
            asked[0] += sample.answer.prompt_tokens or 0
            asked[1] += sample.answer.completion_tokens or 0
        took = sample.verdict.detail.get("judge_tokens") or (0, 0)
        judge = [judge[0] + took[0], judge[1] + took[1]]
    costs = [
        (tokens[0] * per["prompt"] + tokens[1] * per["completion"]) / 1e6
        for tokens, per in ((asked, price), (judge, judge_price))
        if per is not None
    ]
    return Usage(
        prompt_tokens=asked[0],
        completion_tokens=asked[1],
        judge_prompt_tokens=judge[0],
        judge_completion_tokens=judge[1],
        requests=requests,
        retries=retries,
        cached=cached,
        cost=math.fsum(costs) if costs else None,
        seconds=seconds,
    )


def accuracy(kept: Sequence[Sample]) -> tuple[Estimate | None, str]:
    """The mean value with its 95 % interval: Wilson's for one yes or no a row, else clustered by row."""
    values = [_value(sample.verdict) for sample in kept]
    rows = [sample.row.row_id for sample in kept]
    if not values:
        return None, "wilson"
    if len(set(rows)) == len(rows) and all(value in {0.0, 1.0} for value in values):
        right = int(sum(values))
        interval = wilson(right, len(values))
        return Estimate(value=right / len(values), low=interval.low, high=interval.high), "wilson"
    mean = clustered_mean(values, rows)
    low, high = max(0.0, mean.interval.low), min(1.0, mean.interval.high)
    return Estimate(value=mean.value, low=low, high=high), "clustered"


def passes(kept: Sequence[Sample]) -> dict[str, float]:
    """Unbiased pass@k over the rows that have the most answers of all; empty with one answer a row."""
    by_row: dict[str, list[bool]] = defaultdict(list)
    for sample in kept:
        by_row[sample.row.row_id].append(sample.verdict.outcome == "right")
    drawn = min((len(answers) for answers in by_row.values()), default=0)
    if drawn < 2:
        return {}
    ks = [k for k in _KS if k <= drawn]
    return {
        str(k): math.fsum(pass_at(k, len(answers), sum(answers)) for answers in by_row.values()) / len(by_row)
        for k in ks
    }


def perplexity(samples: Iterable[Sample]) -> float | None:
    """Exp of the mean negative log-likelihood of a reference token; None where there is none."""
    details = [s.answer.detail for s in samples if s.answer is not None and "logprob" in s.answer.detail]
    tokens = sum(int(detail["tokens"]) for detail in details)
    return math.exp(-math.fsum(float(detail["logprob"]) for detail in details) / tokens) if tokens else None


def score_of(result: Result) -> Score | None:
    """The finding in the words of version 1, which has no other place than a job's base and trained model."""
    if result.accuracy is None:
        return None
    counts, estimate = result.counts, result.accuracy
    return Score(
        accuracy=estimate.value,
        low=estimate.low,
        high=estimate.high,
        correct=counts.right,
        total=counts.scored,
        truncated=counts.truncated,
    )


def decided(rule: StopRule, verdicts: Sequence[Verdict], baseline: Sequence[Verdict | None]) -> str | None:
    """Why no more rows are needed, by tests that hold at every look. `verdicts` are those of the first rows, in order."""
    looked = [(v, b) for v, b in zip(verdicts, baseline, strict=True) if v.outcome in {"right", "wrong"}]
    if len(looked) < rule.min_rows:
        return None
    if rule.accuracy is not None:
        right = sum(verdict.outcome == "right" for verdict, _ in looked)
        interval = confidence_sequence(right, len(looked), rule.alpha)
        if not interval.excludes(rule.accuracy):
            return None
        side = "above" if interval.low > rule.accuracy else "below"
        return f"surely {side} {rule.accuracy:.1%} after {len(looked)} rows"
    pairs = [(v.outcome, b.outcome) for v, b in looked if b is not None]
    improved, regressed = pairs.count(("right", "wrong")), pairs.count(("wrong", "right"))
    said = decide(improved, regressed, rule.alpha)
    return None if said == "undecided" else f"surely {said} after {len(pairs)} rows"


def _value(verdict: Verdict) -> float:
    return float(verdict.outcome == "right") if verdict.value is None else verdict.value
