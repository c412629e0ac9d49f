"""What a reader should know before trusting a score: each by a code and what is filled in, so that others can say it in other languages."""

from __future__ import annotations

from ltp.contracts.evaluation import Counts
from ltp.contracts.evaluation_spec import RunSpec
from ltp.contracts.values import Saying

_MANY_ERRORS, _MANY_SPOILT = 0.05, 0.1
_ENGLISH = {
    "many_errors": "{count} of {total} samples have no answer; the accuracy is that of the rest.",
    "truncated": "{count} of {total} answers were cut off at {tokens} tokens; raise max_new_tokens.",
    "empty": "{count} of {total} answers are empty; they count as wrong.",
    "unparsable": "{count} answers could not be judged; they count neither as right nor as wrong.",
    "without_reference": "{count} rows have no reference answer and were left out.",
    "one_random": "One random answer a row: draw several (samples > 1) or use temperature 0 for a steadier score.",
    "all_the_same": "Several answers at temperature 0 are all the same; they add nothing but cost.",
}


def english(said: Saying) -> str:
    """A caution in words."""
    return _ENGLISH[said.code].format(**said.values)


def cautions(counts: Counts, total: int, spec: RunSpec) -> list[Saying]:
    """What a reader should know before trusting the number."""
    found: list[Saying] = []
    errors = sum(counts.errors.values())
    if total and errors / total > _MANY_ERRORS:
        found.append(_say("many_errors", count=errors, total=total))
    if counts.scored and counts.truncated / counts.scored > _MANY_SPOILT:
        tokens = spec.sampling.max_new_tokens
        found.append(_say("truncated", count=counts.truncated, total=counts.scored, tokens=tokens))
    if counts.scored and counts.empty / counts.scored > _MANY_SPOILT:
        found.append(_say("empty", count=counts.empty, total=counts.scored))
    if counts.unparsable:
        found.append(_say("unparsable", count=counts.unparsable))
    if counts.without_reference:
        found.append(_say("without_reference", count=counts.without_reference))
    if spec.sampling.temperature > 0 and spec.sampling.samples == 1:
        found.append(_say("one_random"))
    if spec.sampling.temperature == 0 and spec.sampling.samples > 1:
        found.append(_say("all_the_same"))
    return found


def _say(code: str, **values: int) -> Saying:
    return Saying(code=code, values={name: str(value) for name, value in values.items()})
