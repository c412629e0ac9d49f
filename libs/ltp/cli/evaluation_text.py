"""Evaluations and their samples as lines of text."""

from __future__ import annotations

from typing import Any

from ltp.cli import results
from ltp.cli.output import moment
from ltp.comparison_text import percent
from ltp.contracts.evaluation import Estimate


def describe(evaluation: Any) -> str:
    """An evaluation in a few lines."""
    head = f"{evaluation['evaluation_id']}  {evaluation['state']}  {evaluation['model']}"
    lines = [head + (f"  ({evaluation['name']})" if evaluation["name"] else "")]
    if evaluation["dataset"]:
        dataset = evaluation["dataset"]
        lines.append(f"  rows      {dataset['name']}@{dataset['version'][:12]}, split {dataset['split_name']}")
    lines.append(f"  scorer    {evaluation['scorer']}")
    found = evaluation["result"]
    if found:
        lines.append(f"  accuracy  {_accuracy(found['accuracy'])}")
        lines += [f"  pass@{k:<4} {value:.1%}" for k, value in found["pass_at"].items()]
        if found["perplexity"] is not None:
            lines.append(f"  perplexity {found['perplexity']:.4g}")
        usage = found["usage"]
        cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4g}"
        judge = usage["judge_prompt_tokens"], usage["judge_completion_tokens"]
        judged = f", judge {judge[0]} + {judge[1]}" if any(judge) else ""
        tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens{judged}{cost}"
        lines.append(f"  took      {usage['seconds']:.1f} s, {tokens}, {usage['cached']} answers from store")
    lines.append(f"  samples   {counts(evaluation['progress'], evaluation['total'])}")
    if found and found["stopped"]:
        lines.append(f"  stopped   {found['stopped']}")
    lines += [f"  note      {warning}" for warning in (found or {}).get("warnings", [])]
    if evaluation["problem"]:
        problem = evaluation["problem"]
        lines += [f"  {problem['code']}: {problem['message']}", f"  {problem['hint']}"]
    return "\n".join(lines)


def counts(progress: Any, total: int | None) -> str:
    """What became of the samples, each kind apart."""
    errors = sum(progress["errors"].values())
    done = progress["right"] + progress["wrong"] + progress["unparsable"] + errors
    parts = [f"{done}" + (f" of {total}" if total is not None else ""), f"{progress['right']} right"]
    parts.append(f"{progress['wrong']} wrong")
    parts += [f"{progress[name]} {name}" for name in ("truncated", "empty", "unparsable") if progress[name]]
    parts += [f"{count} {kind}" for kind, count in sorted(progress["errors"].items())]
    if progress["without_reference"]:
        parts.append(f"{progress['without_reference']} without reference")
    return ", ".join(parts)


def _accuracy(found: Any) -> str:
    return "none: no sample could be scored" if found is None else percent(Estimate.model_validate(found))


def summary(evaluation: Any) -> tuple[Any, ...]:
    """An evaluation as a row of a table."""
    found, dataset = evaluation["result"], evaluation["dataset"]
    accuracy = _accuracy(found["accuracy"]) if found else ""
    rows = f"{dataset['name']}/{dataset['split_name']}" if dataset else ""
    requested = moment(evaluation["requested_at"])
    state, model = evaluation["state"], results.short(evaluation["model"])
    return evaluation["evaluation_id"], state, model, rows, evaluation["scorer"], accuracy, requested


def sample_line(sample: Any) -> tuple[Any, ...]:
    """A sample as a row of a table."""
    said = sample["response"] if sample["error"] is None else f"{sample['error_kind']}: {sample['error']}"
    outcome = sample["outcome"] + (" (cut off)" if sample["truncated"] else "")
    prompt = sample["prompt"][-1]["content"] if sample["prompt"] else ""
    seconds = None if sample["latency_seconds"] is None else f"{sample['latency_seconds']:.2f}"
    texts = (results.short(prompt), results.short(sample["reference"] or ""), results.short(said))
    return (f"{sample['row_id']}#{sample['sample']}", outcome, *texts, sample["completion_tokens"], seconds)
