"""Recipes, merges and pipelines as a person writes them: YAML in, a checked value or an error with line and column out."""

# PyYAML leaves `compose` half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import yaml
from pydantic import ValidationError

from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError

if TYPE_CHECKING:
    # Imported where they are needed: `ltp plan` has three tenths of a second, and needs neither.
    from ltp.contracts.merge_recipe import MergeRecipe
    from ltp.contracts.pipeline import PipelineSpec

_MAX_CHARACTERS = 1 << 20


def parse_recipe(text: str, source: str = "recipe") -> Recipe:
    """Parse and check a recipe. Raises INVALID_YAML or INVALID_RECIPE, both naming the place in `source`."""
    root, value = _read(text, source)
    if not isinstance(value, dict):
        raise _no_mapping(
            value,
            source,
            "A recipe starts with `name:`, `algorithm:`, `model:`, `dataset:` and `training:` (docs/recipes.md).",
        )
    return check_recipe(cast(dict[str, Any], value), source, root)


def parse_pipeline(text: str, source: str = "pipeline") -> PipelineSpec:
    """Parse and check a pipeline. Raises INVALID_YAML or INVALID_PIPELINE, both naming the place in `source`."""
    from ltp.contracts.pipeline import PipelineSpec

    root, value = _read(text, source)
    hint = "A pipeline has `name:` and `stages:` (docs/pipelines.md)."
    if not isinstance(value, dict):
        what = "nothing" if value is None else f"a {type(value).__name__}"
        raise LtpError(ErrorCode.INVALID_PIPELINE, f"{source} holds {what}, not a mapping.", hint)
    try:
        return PipelineSpec.model_validate(value)
    except ValidationError as error:
        faults = [_describe(item["loc"], item["msg"], item["type"], root, "pipeline") for item in error.errors()[:8]]
        raise LtpError(ErrorCode.INVALID_PIPELINE, f"{source}: " + "; ".join(faults), hint) from error


def parse_merge(text: str, source: str = "merge") -> MergeRecipe:
    """Parse and check a merge in mergekit's format. Raises INVALID_YAML or INVALID_RECIPE, both naming the place."""
    root, value = _read(text, source)
    if not isinstance(value, dict):
        raise _no_mapping(value, source, "A merge starts with `merge_method:` and `models:` (docs/surgery.md).")
    return check_merge(cast(dict[str, Any], value), source, root)


def check_merge(value: dict[str, Any], source: str = "merge", root: yaml.Node | None = None) -> MergeRecipe:
    """Check a merge given as plain values; `root` is its YAML tree, for line numbers."""
    from ltp.contracts.merge_recipe import MergeRecipe

    try:
        recipe = MergeRecipe.model_validate(value)
        faults = recipe.faults()
        lines = [_describe(fault.where, fault.message, "", root) for fault in faults[:8]]
    except ValidationError as error:
        lines = [_describe(item["loc"], item["msg"], item["type"], root) for item in error.errors()[:8]]
    else:
        if not faults:
            return recipe
    raise LtpError(
        ErrorCode.INVALID_RECIPE,
        f"{source}: " + "; ".join(lines),
        "docs/surgery.md lists every method with its parameters.",
    )


def _read(text: str, source: str) -> tuple[yaml.Node | None, object]:
    if len(text) > _MAX_CHARACTERS:
        raise LtpError(ErrorCode.TOO_LARGE, f"{source} is larger than 1 MiB.", "A recipe is a short YAML file.")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_surprises(root, source)
        return root, yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _bad_yaml(source, mark, error.problem or str(error)) from error
    except yaml.YAMLError as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"{source}: {error}", "Save the file as UTF-8 text.") from error
    except RecursionError as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"{source} is nested too deeply.", "Correct the file.") from error


def _no_mapping(value: object, source: str, hint: str) -> LtpError:
    what = "nothing" if value is None else f"a {type(value).__name__}"
    return LtpError(ErrorCode.INVALID_RECIPE, f"{source} holds {what}, not a mapping.", hint)


def check_recipe(value: dict[str, Any], source: str = "recipe", root: yaml.Node | None = None) -> Recipe:
    """Check a recipe given as plain values; `root` is its YAML tree, for line numbers."""
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        lines = [_describe(item["loc"], item["msg"], item["type"], root) for item in error.errors()[:8]]
        raise LtpError(
            ErrorCode.INVALID_RECIPE,
            f"{source}: " + "; ".join(lines),
            "docs/recipes.md lists every key, its type and its default.",
        ) from error


def _describe(loc: Sequence[int | str], message: str, kind: str, root: yaml.Node | None, whole: str = "recipe") -> str:
    where = ".".join(str(part) for part in loc) or whole
    mark = _mark_of(root, loc)
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    if kind == "extra_forbidden":
        message = "unknown key"
    elif kind == "missing":
        message = "missing"
    return f"{place}{where}: {message.removeprefix('Value error, ')}"


def _mark_of(root: yaml.Node | None, loc: Sequence[int | str]) -> yaml.Mark | None:
    """Where in the text a value stands, or the nearest section around it."""
    node, mark = root, None if root is None else root.start_mark
    for part in loc:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(key, value) for key, value in node.value if key.value == str(part)]
        if not found:
            break
        mark, node = found[0][0].start_mark, found[0][1]
    return mark


def _refuse_surprises(node: yaml.Node | None, source: str, seen: set[int] | None = None) -> None:
    """Refuse what YAML allows and a reader would not see: a key given twice, and aliases (which can grow without bound)."""
    seen = set() if seen is None else seen
    if node is None:
        return
    if id(node) in seen:
        raise _bad_yaml(source, node.start_mark, "aliases (*name) are not allowed in recipes")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise _bad_yaml(source, key.start_mark, f"key {key.value!r} is given twice")
            keys.add(key.value)
            _refuse_surprises(value, source, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_surprises(item, source, seen)


def _bad_yaml(source: str, mark: Any, problem: str) -> LtpError:
    place = "" if mark is None else f" line {mark.line + 1}, column {mark.column + 1}:"
    return LtpError(ErrorCode.INVALID_YAML, f"{source}:{place} {problem}", "Correct the file and try again.")
