"""How far a model lies from another, weight by weight and layer by layer: a report, no model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ltp.contracts.checkpoint_recipes import DiffRecipe
from ltp.tensors.model_files import Stored
from ltp.tensors.operation import REPORT, Stopped, Tell
from ltp.tensors.plan import Model, refused

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
TENSORS = "tensors.json"
# 256 Ki elements, as the engine reads.
_PIECE = 1 << 18


@dataclass
class Sums:
    """Sums over elements, from which distances follow; those of several weights add up. Float64."""

    base: float = 0.0
    model: float = 0.0
    product: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    elements: int = 0

    def add(self, other: Sums) -> None:
        """These and those together."""
        self.base, self.model = self.base + other.base, self.model + other.model
        self.product, self.change = self.product + other.product, self.change + other.change
        self.largest, self.elements = max(self.largest, other.largest), self.elements + other.elements

    def view(self) -> dict[str, Any]:
        """Relative change |b - a| / |a|, cosine of a and b, and the largest change of one value; None where |a| or |b| is 0."""
        norms = math.sqrt(self.base * self.model)
        return {
            "relative_change": math.sqrt(self.change / self.base) if self.base else None,
            "cosine": max(-1.0, min(1.0, self.product / norms)) if norms else None,
            "largest_change": self.largest,
            "elements": self.elements,
        }


class Difference:
    """A comparison that passed its preflight."""

    kind, method, is_model = "diff", "layer_diff", False

    def __init__(self, recipe: DiffRecipe) -> None:
        self.models = [Model.open(recipe.base_model), Model.open(recipe.model)]
        if any(model.adapter for model in self.models):
            raise refused("A difference takes models, not adapters.", "Merge the adapter first.")
        self.recipe, self.write_bytes = recipe.settings(), 1 << 20
        base, other = (model.files.tensors for model in self.models)
        strange = sorted(base.keys() ^ other.keys())
        if strange:
            where = recipe.base_model if strange[0] in other else recipe.model
            raise refused(
                f"{where} lacks {strange[0]} ({len(strange)} like it).", "Compare models of one architecture."
            )
        for name, stored in base.items():
            if other[name].shape != stored.shape:
                shapes = f"{list(stored.shape)} in the base and {list(other[name].shape)} in the model"
                raise refused(f"{name} is {shapes}.", "Compare models of one size.")

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        pairs = [model.files.files for model in self.models]
        return {
            "kind": self.kind,
            "method": self.method,
            "models": [model.reference for model in self.models],
            "tensors": len(self.models[0].files.tensors),
            "read_bytes": sum(path.stat().st_size for files in pairs for path in files),
            "findings": [],
        }

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Read both once; an interrupted comparison begins anew."""
        tensors, layers, whole = dict[str, Any](), dict[str, Sums](), Sums()
        for name, sums in self._compared(stop, tell):
            tensors[name] = sums.view()
            found = _LAYER.search(name)
            layers.setdefault(f"layer {found[1]}" if found else name, Sums()).add(sums)
            whole.add(sums)
        rows = sorted(
            layers, key=lambda key: (not key.startswith("layer "), int(key[6:]) if key[:6] == "layer " else 0)
        )
        report = {"whole": whole.view(), "layers": [{"layer": key} | layers[key].view() for key in rows]}
        (directory / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        (directory / TENSORS).write_text(json.dumps(tensors, indent=2) + "\n")

    def _compared(self, stop: Event, tell: Tell) -> Iterator[tuple[str, Sums]]:
        from ltp.tensors.readers import Bench, Files

        base, other = (model.files.tensors for model in self.models)
        total, done, files = sum(stored.elements for stored in base.values()), 0, Files()
        try:
            bench = Bench(files)
            for name, stored in base.items():
                if stop.is_set():
                    raise Stopped
                yield name, _sums(bench, stored, other[name])
                done += stored.elements
                tell({"stage": "compare", "done_bytes": done, "total_bytes": total})
        finally:
            files.close()


def _sums(bench: Any, one: Stored, other: Stored) -> Sums:
    import numpy as np

    total = Sums(elements=one.elements)
    for start in range(0, one.elements, _PIECE):
        stop = min(start + _PIECE, one.elements)
        a, b = bench.values(0, stop - start), bench.values(1, stop - start)
        bench.load(one, start, stop, a)
        bench.load(other, start, stop, b)
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            raise refused(f"{one.name} is not finite in one of the two models.", "That model is damaged.")
        x, y = a.astype(np.float64), b.astype(np.float64)
        change = y - x
        part = Sums(float(x @ x), float(y @ y), float(x @ y), float(change @ change), float(np.abs(change).max()))
        total.add(part)
    return total
