"""The choice of a checkpoint as a kind of work: judged from the scores given, and the chosen one written as a model."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

from ltp.contracts.checkpoint_recipes import SelectRecipe
from ltp.core.selection import SelectionError, select
from ltp.recipe_text import check_merge
from ltp.tensors.averaging import step_of
from ltp.tensors.merge import Merge
from ltp.tensors.operation import REPORT, Tell
from ltp.tensors.plan import Model, refused


def decide(recipe: SelectRecipe) -> dict[str, Any]:
    """The choice with everything it rests on. Raises OPERATION_REFUSED where none is sound."""
    given = [c if c.step is not None else c.model_copy(update={"step": step_of(c.model)}) for c in recipe.candidates]
    candidates = [c.candidate() for c in given]
    try:
        choice = select(candidates, recipe.rule())
    except SelectionError as error:
        raise refused(f"Nothing can be selected: {error}.", "Score it again, leave it out, or set nan: skip.") from error
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


class Selection:
    """A selection that passed its preflight. Only the chosen model has to be whole."""

    kind, method, is_model = "select", "selection", True

    def __init__(self, recipe: SelectRecipe, *, threads: int | None = None) -> None:
        self.decision = decide(recipe)
        self._merge = copy_of(self.decision["chosen"], recipe.dtype, threads)
        self.recipe, self.models = recipe.settings(), self._merge.models
        self.write_bytes = self._merge.write_bytes

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        found = self._merge.summary()
        findings = [*self.decision["findings"], *found["findings"]]
        more = {"kind": self.kind, "method": self.method, "report": self.decision, "findings": findings}
        return found | more

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """The chosen model, and why it was."""
        self._merge.write(directory, digest, stop, tell)
        (directory / REPORT).write_text(json.dumps(self.decision, indent=2) + "\n")


def copy_of(reference: str, dtype: str | None, threads: int | None = None, max_file_bytes: int | None = None) -> Merge:
    """A model as it is, in another type where one is given."""
    sources = [{"model": reference, "layer_range": [0, max(1, Model.open(reference).layers)]}]
    recipe: dict[str, Any] = {"merge_method": "passthrough", "slices": [{"sources": sources}]}
    limit = {"max_file_bytes": max_file_bytes} if max_file_bytes else {}
    return Merge(check_merge(recipe | ({"out_dtype": dtype} if dtype else {}), "copy"), threads=threads, **limit)
