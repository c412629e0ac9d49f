"""Which changes to a released schema break somebody. Pure.

JetStream replays old facts to new code, and a rolling deploy plays new facts to old code; so within a version only
optional fields may be added. Everything else needs a new version beside the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Schema = Mapping[str, Any]


def breaks(released: Schema, current: Schema) -> list[str]:
    """What in `current` breaks a reader or a writer of `released`; empty when they get along."""
    return _compare("$", released, current, released.get("$defs", {}), current.get("$defs", {}), frozenset())


def _compare(
    path: str, old: Schema, new: Schema, old_defs: Schema, new_defs: Schema, open_refs: frozenset[str]
) -> list[str]:
    reference = str(old.get("$ref", ""))
    if reference and reference in open_refs:
        return []  # A recursive schema: this pair is being compared further up.
    open_refs |= {reference} if reference else frozenset()
    old, new = _resolve(old, old_defs), _resolve(new, new_defs)
    found = [
        f"{path}: {key} {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in ("type", "enum", "const", "format", "pattern")
        if old.get(key) != new.get(key) and not (key == "enum" and _grew(old, new))
    ]
    found += _bounds(path, old, new)
    for keyword in ("items", "additionalProperties"):
        if isinstance(old.get(keyword), Mapping) and isinstance(new.get(keyword), Mapping):
            found += _compare(f"{path}[]", old[keyword], new[keyword], old_defs, new_defs, open_refs)
    found += _alternatives(path, old, new, old_defs, new_defs, open_refs)
    return found + _properties(path, old, new, old_defs, new_defs, open_refs)


def _properties(
    path: str, old: Schema, new: Schema, old_defs: Schema, new_defs: Schema, open_refs: frozenset[str]
) -> list[str]:
    before, after = cast(Schema, old.get("properties", {})), cast(Schema, new.get("properties", {}))
    was, now = set(old.get("required", ())), set(new.get("required", ()))
    found = [f"{path}.{name}: removed" for name in before if name not in after]
    found += [f"{path}.{name}: became required" for name in sorted(now - was)]
    found += [f"{path}.{name}: no longer promised" for name in sorted(was - now) if name in after]
    for name in before:
        if name in after:
            found += _compare(f"{path}.{name}", before[name], after[name], old_defs, new_defs, open_refs)
    return found


def _alternatives(
    path: str, old: Schema, new: Schema, old_defs: Schema, new_defs: Schema, open_refs: frozenset[str]
) -> list[str]:
    before, after = list(old.get("anyOf", ())), list(new.get("anyOf", ()))
    if len(before) != len(after):
        return [f"{path}: {len(before)} alternatives -> {len(after)}"]
    found: list[str] = []
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        found += _compare(f"{path}|{index}", one, other, old_defs, new_defs, open_refs)
    return found


def _grew(old: Schema, new: Schema) -> bool:
    """Whether a choice of a user's, marked as one that may grow, only has more to choose from (docs/adr/0006)."""
    return bool(new.get("x-may-grow")) and set(old.get("enum", ())) <= set(new.get("enum", ()))


def _bounds(path: str, old: Schema, new: Schema) -> list[str]:
    """Limits may neither tighten (old facts would be refused) nor loosen (old readers would refuse new facts).

    A lower limit of what a user chooses may sink where it is marked so.
    """
    if new.get("x-may-grow") and new.get("minimum", 0) <= old.get("minimum", 0):
        old = {**old, "minimum": new.get("minimum")}
    keys = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength")
    return [f"{path}: {k} {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def _resolve(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = definitions[str(reference).rpartition("/")[2]]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
