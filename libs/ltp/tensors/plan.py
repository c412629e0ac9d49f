"""Turns a merge recipe and the headers of its models into one step per weight of the result. Reads no weight.

Weights are matched by name, layers by their number, so any architecture with numbered layers works. Parameters are resolved
here: gradients run over the layers of a slice, and what is no layer (embedding, final norm, head) has `t` = 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltp.contracts.merge_recipe import InputSlice, MergeRecipe, OutputSlice
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.merging import METHODS, Method, Scope, resolve
from ltp.tensors.adapters import Adapter
from ltp.tensors.layout import Target
from ltp.tensors.model_files import ModelFiles, Stored
from ltp.tensors.vocabulary import Rows

SHORT = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
LONG = {short: name for name, short in SHORT.items()}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
_LAYER = re.compile(r"^((?:.*?\.)?(?:layers|h|blocks|block)\.)(\d+)(\..+)$")


def refused(message: str, hint: str) -> LtpError:
    """The error of a merge that cannot be done."""
    return LtpError(ErrorCode.OPERATION_REFUSED, message, hint)


@dataclass(frozen=True)
class Model:
    """A model of the merge, with its adapter where it was named `model+adapter`."""

    reference: str
    files: ModelFiles
    adapter: Adapter | None = None

    @classmethod
    def open(cls, reference: str) -> Model:
        """Read the headers. Raises MODEL_NOT_FOUND or MODEL_UNREADABLE."""
        base, plus, lora = reference.partition("+")
        if not Path(base).is_dir() and Path(reference).is_dir():
            base, plus = reference, ""
        files = ModelFiles.open(Path(base))
        return cls(reference, files, Adapter.open(Path(lora), files) if plus else None)

    @property
    def layers(self) -> int:
        """How many layers its weights have."""
        numbers = [int(found[2]) for name in self.files.tensors if (found := _LAYER.match(name))]
        return max(numbers, default=-1) + 1

    @property
    def tied(self) -> bool:
        """Whether its head is its embedding."""
        return bool(self.files.config.get("tie_word_embeddings")) and not any(
            name.endswith(HEADS) for name in self.files.tensors
        )


@dataclass(frozen=True)
class Origin:
    """A weight of one model: the model's place among the merge's, and the tensor."""

    model: int
    stored: Stored
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Step:
    """One weight of the result: from what, by which parameters, in which types."""

    target: Target
    dtype: str
    origins: tuple[Origin, ...]
    base: int | None
    shared: dict[str, Any]
    # Rows of the embedding by model, where vocabularies are aligned.
    rows: dict[int, Rows] | None = None


@dataclass(frozen=True)
class _Named:
    """A weight of the result before its parameters: (source, tensor) pairs, and its place in the slice."""

    name: str
    t: float
    part: OutputSlice
    origins: tuple[tuple[InputSlice, Stored], ...]


def slices_of(recipe: MergeRecipe, models: Sequence[Model]) -> list[OutputSlice]:
    """The recipe's slices; `models:` is one slice of all layers, with the base beside them."""
    if recipe.slices:
        return recipe.slices
    given = list(recipe.models or [])
    named = [model.model for model in given]
    by_reference = {model.reference: model for model in models}
    sources = [
        InputSlice(model=m.model, layer_range=(0, max(1, by_reference[m.model].layers)), parameters=m.parameters)
        for m in given
    ]
    if recipe.base_model and recipe.base_model not in named:
        height = max(1, by_reference[recipe.base_model].layers)
        sources.append(InputSlice(model=recipe.base_model, layer_range=(0, height)))
    return [OutputSlice(sources=sources)]


def steps_of(recipe: MergeRecipe, models: Sequence[Model], rows: Sequence[Rows] | None) -> list[Step]:
    """Every weight of the result, in the order of the layers. Raises OPERATION_REFUSED."""
    places = {model.reference: place for place, model in enumerate(models)}
    method, parts = METHODS[recipe.merge_method], slices_of(recipe, models)
    for number, part in enumerate(parts):
        _check_slice(recipe, method, part, number, [models[places[s.model]] for s in part.sources])
    named = list(_names(parts, models, places))
    return [_step(recipe, method, weight, places, rows) for weight in named]


def _base_of(recipe: MergeRecipe, part: OutputSlice) -> str | None:
    return part.base_model or recipe.base_model


def _check_slice(recipe: MergeRecipe, method: Method, part: OutputSlice, number: int, models: Sequence[Model]) -> None:
    where = f"slice {number}" if recipe.slices else "the merge"
    named, base = [source.model for source in part.sources], _base_of(recipe, part)
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise refused(f"{twice} stands twice in {where}.", "Name each model once; use its weight instead.")
    if method.needs_base and base is None:
        raise refused(f"{method.name} needs a base_model.", "Add `base_model:` with one of the models or their parent.")
    if base is not None and base not in named and (method.needs_base or recipe.slices is None):
        raise refused(f"The base_model {base} is not among the sources of {where}.", "Add it as a source.")
    count = len(named) - (0 if method.counts_base or base not in named else 1)
    least, most = method.models
    if count < least or (most is not None and count > most):
        wanted = str(least) if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        beside = "" if method.counts_base else " beside the base"
        raise refused(f"{method.name} merges {wanted} models{beside}, and {where} has {count}.", "Change the models.")
    lengths = {source.layer_range[1] - source.layer_range[0] for source in part.sources}
    if len(lengths) > 1:
        shapes = ", ".join(f"{source.model}: {list(source.layer_range)}" for source in part.sources)
        raise refused(f"The sources of {where} have different numbers of layers ({shapes}).", "Use equal ranges.")
    for source, model in zip(part.sources, models, strict=True):
        if source.layer_range[1] > max(1, model.layers):
            raise refused(f"{source.model} has {model.layers} layers, not {source.layer_range[1]}.", "Lower the range.")


def _names(parts: Sequence[OutputSlice], models: Sequence[Model], places: dict[str, int]) -> Iterator[_Named]:
    yield from _outer(parts[0], models, places, before=True)
    layer = 0
    for part in parts:
        length = part.sources[0].layer_range[1] - part.sources[0].layer_range[0]
        for offset in range(length):
            t = offset / (length - 1) if length > 1 else 1.0
            yield from _layer(part, models, places, layer, offset, t)
            layer += 1
    yield from _outer(parts[-1], models, places, before=False)


def _outer(part: OutputSlice, models: Sequence[Model], places: dict[str, int], *, before: bool) -> Iterator[_Named]:
    """What is no layer: the embeddings come before the layers, everything else behind them."""
    sources = [(source, models[places[source.model]]) for source in part.sources]
    names: dict[str, None] = {}
    for _, model in sources:
        names |= dict.fromkeys(name for name in model.files.tensors if not _LAYER.match(name))
    for name in names:
        if (name.endswith(EMBEDDINGS) or "embed" in name.rpartition(".")[0]) is before:
            yield _Named(name, 0.0, part, tuple((source, _tensor(model, name)) for source, model in sources))


def _layer(
    part: OutputSlice, models: Sequence[Model], places: dict[str, int], layer: int, offset: int, t: float
) -> Iterator[_Named]:
    tables: list[dict[tuple[str, str], str]] = []
    for source in part.sources:
        number = source.layer_range[0] + offset
        names = models[places[source.model]].files.tensors
        matches = (found for name in names if (found := _LAYER.match(name)) and int(found[2]) == number)
        tables.append({(found[1], found[3]): found[0] for found in matches})
    keys = dict.fromkeys(key for table in tables for key in table)
    for prefix, suffix in keys:
        origins: list[tuple[InputSlice, Stored]] = []
        for source, table in zip(part.sources, tables, strict=True):
            wanted = f"{prefix}{source.layer_range[0] + offset}{suffix}"
            origins.append((source, _tensor(models[places[source.model]], table.get((prefix, suffix), wanted))))
        yield _Named(f"{prefix}{layer}{suffix}", t, part, tuple(origins))


def _tensor(model: Model, name: str) -> Stored:
    found = model.files.tensors.get(name)
    if found is None and name.endswith(HEADS) and model.tied:
        # Its head is its embedding; another model's is not.
        found = next((t for n, t in model.files.tensors.items() if n.endswith(EMBEDDINGS)), None)
    if found is None:
        raise refused(
            f"{model.reference} has no {name}, which another model of the merge has.",
            "Merge models of one architecture and one size.",
        )
    return found


def _step(
    recipe: MergeRecipe, method: Method, weight: _Named, places: dict[str, int], rows: Sequence[Rows] | None
) -> Step:
    base_name = _base_of(recipe, weight.part)
    origins: list[Origin] = []
    for source, stored in weight.origins:
        own = {
            p.name: _resolved(p, [source.parameters, weight.part.parameters, recipe.parameters], stored.name, weight.t)
            for p in method.parameters
            if p.scope is Scope.INPUT or (p.scope is Scope.NON_BASE and source.model != base_name)
        }
        origins.append(Origin(places[source.model], stored, own))
    sections = [weight.part.parameters, recipe.parameters]
    shared = {
        p.name: _resolved(p, sections, weight.name, weight.t) for p in method.parameters if p.scope is Scope.SHARED
    }
    base = next((i for i, (source, _) in enumerate(weight.origins) if source.model == base_name), None)
    dtype = SHORT[recipe.dtype] if recipe.dtype else _promoted([origin.stored.dtype for origin in origins])
    aligned = rows is not None and weight.name.endswith((*EMBEDDINGS, *HEADS))
    shape = _shape(weight.name, origins, rows[0] if rows is not None and aligned else None)
    target = Target(weight.name, SHORT[recipe.out_dtype] if recipe.out_dtype else dtype, shape)
    _check_weights(method, shared, origins, base, weight.name)
    mapped = {origin.model: rows[origin.model] for origin in origins} if rows is not None and aligned else None
    return Step(target, dtype, tuple(origins), base, shared, mapped)


def _resolved(parameter: Any, sections: Sequence[dict[str, Any] | None], tensor: str, t: float) -> Any:
    try:
        return resolve(parameter, sections, tensor, t)
    except ValueError as error:
        raise refused(f"{error}.", "docs/surgery.md lists every method with its parameters.") from error


def _promoted(dtypes: Sequence[str]) -> str:
    """The type that holds them all; bfloat16 and float16 meet in float32."""
    return dtypes[0] if len(set(dtypes)) == 1 else "F32"


def _shape(name: str, origins: Sequence[Origin], rows: Rows | None) -> tuple[int, ...]:
    shapes = [origin.stored.shape[1:] if rows else origin.stored.shape for origin in origins]
    if len(set(shapes)) > 1:
        each = ", ".join(f"{list(o.stored.shape)} in {o.stored.file.parent}" for o in origins)
        vocabulary = name.endswith((*EMBEDDINGS, *HEADS)) and len({s[1:] for s in shapes}) == 1
        hint = (
            "Their vocabularies differ: set `tokenizer_source: union` (or base)."
            if vocabulary
            else "Merge equal sizes."
        )
        raise refused(f"{name} has different shapes: {each}.", hint)
    return (len(rows.own), *shapes[0]) if rows else shapes[0]


def _check_weights(
    method: Method, shared: dict[str, Any], origins: Sequence[Origin], base: int | None, name: str
) -> None:
    weights = [o.parameters["weight"] for o in origins if "weight" in o.parameters]
    if not weights:
        return
    divided = shared.get("normalize", method.name == "nuslerp") or shared.get("normalize_weights")
    elects = method.name.endswith("ties") or method.name == "della"
    if (divided and not elects and abs(sum(weights)) < 1e-8) or (method.parameter("density") and not any(weights)):
        raise refused(f"The weights of {name} sum to zero ({weights}).", "Give weights that do not cancel out.")
    epsilon = method.parameter("epsilon")
    for origin in origins:
        density, spread = origin.parameters.get("density"), origin.parameters.get("epsilon")
        if epsilon and density is not None and 0 < density < 1 and not (density - spread > 0 and density + spread < 1):
            raise refused(
                f"density {density:g} ± epsilon {spread:g} leaves (0, 1) for {name}.", "Choose a smaller epsilon."
            )
