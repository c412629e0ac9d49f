"""A choice between checkpoints with everything it rests on, as the command shows it and the result keeps it. Opens no file."""

from __future__ import annotations

import re
from typing import Any

from ltp.contracts.checkpoint_recipes import SelectRecipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.selection import SelectionError, select

_STEP = re.compile(r"(?:step|checkpoint|iter)[-_]?(\d+)(?:[-_/]|$)")


def step_of(reference: str) -> int | None:
    """The training step that a path names, as step-3, global_step_3 or checkpoint-3."""
    found = _STEP.findall(reference.rstrip("/").rpartition("/")[2])
    return int(found[-1]) if found else None


def decide(recipe: SelectRecipe) -> dict[str, Any]:
    """The choice with everything it rests on. Raises OPERATION_REFUSED where none is sound."""
    given = [c if c.step is not None else c.model_copy(update={"step": step_of(c.model)}) for c in recipe.candidates]
    candidates = [c.candidate() for c in given]
    try:
        choice = select(candidates, recipe.rule())
    except SelectionError as error:
        hint = "Score it again, leave it out, or set nan: skip."
        raise LtpError(ErrorCode.OPERATION_REFUSED, f"Nothing can be selected: {error}.", hint) from error
    ranking = [
        {
            "model": c.name,
            "step": c.step,
            "score": None if place in choice.skipped else c.score,
            "stderr": c.stderr,
            "tied": place in choice.tied,
            "skipped": place in choice.skipped,
        }
        for place, c in enumerate(candidates)
    ]
    chosen = candidates[choice.chosen]
    findings: list[dict[str, str]] = []
    if chosen.report is None:
        text = "No score on another split: the one that selected is optimistic, being the best of several."
        findings.append({"code": "not_reported", "severity": "warning", "message": text})
    if choice.skipped:
        text = f"{len(choice.skipped)} of {len(candidates)} candidates without a finite score were passed over."
        findings.append({"code": "scores_missing", "severity": "warning", "message": text})
    return {
        "metric": recipe.metric,
        "direction": recipe.direction,
        "chosen": chosen.name,
        "score": chosen.score,
        "reported": chosen.report,
        "selected_on": recipe.selected_on,
        "reported_on": recipe.reported_on,
        "best_by_score": candidates[choice.best].name,
        "tied": [candidates[place].name for place in choice.tied],
        "rule": {"tie": recipe.tie, "within": recipe.within, "nan": recipe.nan},
        "candidates": ranking,
        "findings": findings,
    }
