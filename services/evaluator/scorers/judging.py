"""From a scorer's settings to the thing that judges: rules at once, code in the sandbox, models over their endpoints."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from ltp.contracts.evaluation_spec import (
    ApiModel,
    ChoiceScorer,
    CodeScorer,
    FunctionScorer,
    JudgeScorer,
    LikelihoodScorer,
    LocalModel,
    NumericScorer,
    PlainScorer,
    RegexScorer,
    ScorerSpec,
    SimilarityScorer,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.recipe import content_hash
from ltp.core.scoring import choice_letter, exact, has_number, normalised, numeric_within
from ltp.sandbox.pool import Sandbox, processors
from services.evaluator.endpoint import Endpoint, hopeless
from services.evaluator.samples import Answer, Failure, Message, Row, Verdict, judged

# Raised by one when a scorer's meaning changes, so that old scores are not taken for new ones.
_VERSIONS = {"exact": 1, "numeric": 2, "normalised": 1, "choice": 1, "regex": 1, "math": 1, "code": 1, "function": 1}
_VERSIONS |= {"similarity": 1, "likelihood": 1, "judge": 1}

Judge = Callable[[Row, Answer], Awaitable[Verdict]]
# Opens the endpoint of a second model: the judge's, or the one that embeds.
Opener = Callable[[ApiModel | LocalModel], AbstractAsyncContextManager[Endpoint]]

_ASK = (
    "Two answers to the same question follow. Say which one is better, judging correctness first.\n"
    "{instructions}\n\n# Question\n{question}\n\n# Answer 1\n{first}\n\n# Answer 2\n{second}\n\n"
    "End with one line: VERDICT: 1, VERDICT: 2, or VERDICT: TIE."
)
_VERDICT = re.compile(r"VERDICT\W*(1|2|TIE)\b", re.IGNORECASE)


def identity(spec: ScorerSpec, scorers_dir: Path) -> str:
    """Name, version and settings of a scorer in short: equal for scores that may be compared."""
    settings = spec.model_dump(mode="json")
    if isinstance(spec, FunctionScorer):
        settings["source"] = source_of(spec, scorers_dir)
    rest = {key: value for key, value in settings.items() if key != "name"}
    return f"{spec.name}/{_VERSIONS[spec.name]}" + (f"#{content_hash(rest)[:12]}" if rest else "")


def source_of(spec: FunctionScorer, scorers_dir: Path) -> str:
    """The user's scorer. Raises LtpError NOT_FOUND."""
    path = scorers_dir / f"{spec.file.removesuffix('.py')}.py"
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        hint = "Write a file there that defines score(response, reference, row)."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no scorer {path}.", hint) from error


@asynccontextmanager
async def opened(spec: ScorerSpec, root: Path, open_model: Opener, warnings: list[str]) -> AsyncIterator[Judge]:
    """What judges an answer to a row that has a reference."""
    if isinstance(spec, PlainScorer) and spec.name != "math":
        yield _rule(exact if spec.name == "exact" else normalised)
    elif isinstance(spec, NumericScorer):
        yield _numeric(Decimal(repr(spec.relative)), Decimal(repr(spec.absolute)))
    elif isinstance(spec, ChoiceScorer):
        yield _choice(spec.letters)
    elif isinstance(spec, LikelihoodScorer):
        yield _likelihood
    elif isinstance(spec, PlainScorer | RegexScorer | CodeScorer | FunctionScorer):
        async with Sandbox(_sandbox_settings(spec, root), [root], processors()) as sandbox:
            if not sandbox.caged:
                warnings.append("The sandbox has no namespaces here: foreign code could reach the network.")
            yield _sandboxed(sandbox)
    else:
        async with open_model(spec.model) as endpoint:
            yield _similar(endpoint, spec) if isinstance(spec, SimilarityScorer) else _compared(endpoint, spec)


def _sandbox_settings(spec: PlainScorer | RegexScorer | CodeScorer | FunctionScorer, root: Path) -> dict[str, Any]:
    settings = spec.model_dump(mode="json")
    if isinstance(spec, FunctionScorer):
        settings["source"] = source_of(spec, root / "scorers")
    return settings


def _rule(right: Callable[[str, str], bool]) -> Judge:
    async def judge(row: Row, answer: Answer) -> Verdict:
        return judged(right(answer.text, row.answer or ""))

    return judge


def _numeric(relative: Decimal, absolute: Decimal) -> Judge:
    async def judge(row: Row, answer: Answer) -> Verdict:
        reference = row.answer or ""
        if not has_number(reference):
            return Verdict("no_reference", None, {"why": f"the reference {reference[:200]!r} holds no number"})
        return judged(numeric_within(answer.text, reference, relative, absolute))

    return judge


def _choice(letters: str) -> Judge:
    async def judge(row: Row, answer: Answer) -> Verdict:
        wanted = choice_letter(row.answer or "", letters)
        if wanted is None:
            return Verdict("no_reference", None, {"why": f"the reference {row.answer!r} is no letter of {letters}"})
        chosen = choice_letter(answer.text, letters)
        if chosen is None:
            return Verdict("unparsable", None, {"why": "the answer chooses no letter"})
        return judged(chosen == wanted, {"extracted": chosen})

    return judge


def _sandboxed(sandbox: Sandbox) -> Judge:
    async def judge(row: Row, answer: Answer) -> Verdict:
        record = {"id": row.row_id, "prompt": list(row.prompt), "labels": dict(row.labels)}
        found = await sandbox.judge(answer.text, row.answer or "", record)
        if "outcome" in found:
            return Verdict(found["outcome"], None, found.get("detail", {}))
        if not math.isfinite(found["value"]):
            return Verdict("unparsable", None, {"why": "the scorer gave no finite number"})
        return judged(found["value"], found.get("detail"))

    return judge


async def _likelihood(row: Row, answer: Answer) -> Verdict:
    """Right when greedy decoding would give exactly the reference."""
    return judged(bool(answer.detail["greedy"]), {})


def _similar(endpoint: Endpoint, spec: SimilarityScorer) -> Judge:
    async def judge(row: Row, answer: Answer) -> Verdict:
        found = await endpoint.post("embeddings", {"input": [answer.text or " ", row.answer or " "]})
        if isinstance(found, Failure):
            return _unjudged(endpoint, found)
        try:
            one, other = (item["embedding"] for item in sorted(found[0]["data"], key=lambda item: item["index"]))
            similarity = _cosine(one, other)
        except (LookupError, TypeError, ValueError) as error:
            return Verdict("unparsable", None, {"why": f"malformed embeddings: {error!r}"})
        # The value is the decision, so that accuracy stays a share of right answers; the number stands beside it.
        return judged(similarity >= spec.threshold, {"similarity": similarity, **_took(found[0].get("usage"))})

    return judge


def _compared(endpoint: Endpoint, spec: JudgeScorer) -> Judge:
    async def ask(row: Row, first: str, second: str) -> Answer | Failure:
        question = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in row.prompt)
        text = _ASK.format(instructions=spec.instructions, question=question, first=first, second=second)
        prompt = [Message(role="user", content=text)]
        return await endpoint.chat(prompt, {"max_tokens": spec.max_new_tokens, "temperature": 0})

    async def judge(row: Row, answer: Answer) -> Verdict:
        reference = row.answer or ""
        orders = [(answer.text, reference, "1")] + ([(reference, answer.text, "2")] if spec.both_orders else [])
        values: list[float] = []
        tokens = [0, 0]
        for first, second, mine in orders:
            found = await ask(row, first, second)
            took: dict[str, Any] = {"judge_tokens": tokens, "orders": values}
            if isinstance(found, Failure):
                verdict = _unjudged(endpoint, found)
                return replace(verdict, detail={**verdict.detail, **took})
            tokens[0] += found.prompt_tokens or 0
            tokens[1] += found.completion_tokens or 0
            said = _VERDICT.findall(found.text)
            if not said:
                return Verdict("unparsable", None, {"why": "the judge gave no verdict", **took})
            values.append(1.0 if said[-1].upper() in {mine, "TIE"} else 0.0)
        took = {"judge_tokens": tokens, "orders": values}
        # A judge that prefers a place rather than an answer contradicts itself: that is worth neither yes nor no.
        if len(set(values)) > 1:
            return Verdict("unparsable", None, {"why": "the judge contradicts itself when the order is turned", **took})
        return judged(values[0], took)

    return judge


def _unjudged(endpoint: Endpoint, failure: Failure) -> Verdict:
    # A judge that nobody can ask judges nothing: better said at once than once for each of a thousand answers.
    if not endpoint.spent.answered and failure.kind in {"unreachable", "unauthorized", "model_not_found"}:
        raise hopeless(endpoint, failure, "The judging model at ")
    return Verdict("unparsable", None, {"why": f"the judging model did not answer: {failure.kind}: {failure.message}"})


def _took(usage: Any) -> dict[str, Any]:
    """What a verdict took of the judging model, kept with it: the sum survives whoever adds it up."""
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return {"judge_tokens": [tokens, 0]} if isinstance(tokens, int) else {}


def _cosine(one: list[float], other: list[float]) -> float:
    norm = math.sqrt(math.fsum(x * x for x in one) * math.fsum(x * x for x in other))
    return math.fsum(x * y for x, y in zip(one, other, strict=True)) / norm if norm else 0.0
