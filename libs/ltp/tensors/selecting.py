"""The choice of a checkpoint as a kind of work: judged from the scores given, and the chosen one written as a model."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

from ltp.contracts.checkpoint_recipes import SelectRecipe
from ltp.recipe_text import check_merge
from ltp.selection_report import decide
from ltp.tensors.layout import MAX_FILE_BYTES
from ltp.tensors.merge import Merge
from ltp.tensors.operation import REPORT, Tell
from ltp.tensors.plan import Model


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
    limit = max_file_bytes or MAX_FILE_BYTES
    checked = check_merge(recipe | ({"out_dtype": dtype} if dtype else {}), "copy")
    return Merge(checked, threads=threads, max_file_bytes=limit)
