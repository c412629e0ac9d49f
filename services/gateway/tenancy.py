"""The walls between projects: what a request names, what an answer shows, and what an event tells of. Pure.

A rule for all nouns instead of one for each: every id is a UUID, and each has one owner. Whoever names an id, a
secret or a model of another project is told that there is none; what an answer would show of another project is left out.
Names of datasets are each project's own: whoever looks one up looks among its own (`ltp.store.acting.sought_in`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_FULL_UUID = re.compile(_UUID.pattern + r"|[0-9a-fA-F]{32}")
_MODEL_KEYS = frozenset(
    {"path", "source", "model", "models", "base_model", "base", "tokenizer_source", "model_path", "adapter", "checkpoint",
     "checkpoints", "output", "critic", "reward_model", "reference_model", "draft"}
)  # fmt: skip
# Path parameters that name what belongs to a project: unowned is not there.
OWNED = frozenset(
    {
        "job_id",
        "dataset_id",
        "evaluation_id",
        "operation_id",
        "run_id",
        "embedding_id",
        "dedup_id",
        "upload_id",
        "checkpoint_id",
    }
)
_NAMED = {"schedules": "schedule", "pipelines": "pipeline", "secrets": "secret"}
_NAME_PARAMETERS = frozenset({"name", "schedule"})
# A dataset's id may stand where its name may.
_DATASET_PARAMETERS = frozenset({"named", "ref"})
MOST_BYTES = 8 << 20


def in_path(path: str, parameters: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """What a path names: (what must belong to the caller, what must not belong to another)."""
    must: set[str] = set()
    other: set[str] = set()
    kind = _NAMED.get(path.split("/")[3] if path.count("/") >= 3 else "")
    for key, value in parameters.items():
        text = str(value)
        if _FULL_UUID.fullmatch(text):
            (must if key in OWNED or kind or key in _DATASET_PARAMETERS else other).add(_plain(text))
        elif kind is not None and key in _NAME_PARAMETERS:
            # A secret is made under its name; of all else the name is there or not.
            (other if kind == "secret" else must).add(f"{kind}:{text.partition('@')[0]}")
        else:
            other |= {_plain(found) for found in _UUID.findall(text)}
    return must, other


def in_body(value: Any, models: Path, key: str = "") -> Iterator[str]:
    """What a body (or a query) names: ids wherever they stand, secrets and models where such are named."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            # {"model": {"path": P}} names a model; so may a key itself, as in {"parts": {ID: 1}}.
            yield from map(_plain, _FULL_UUID.findall(str(name)))
            inherits = key in _MODEL_KEYS and name in {"name", "path", "model"}
            yield from in_body(inner, models, key if inherits else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from in_body(inner, models, key)
    elif isinstance(value, str):
        yield from _in_text(value, models, key)


def _in_text(text: str, models: Path, key: str) -> Iterator[str]:
    yield from map(_plain, _FULL_UUID.findall(text))
    if key == "secret" or key.endswith(("_secret", "secret_name")):
        yield f"secret:{text}"
    elif key in _MODEL_KEYS and (name := _model_name(text, models)):
        yield f"model:{name}"


def _model_name(text: str, models: Path) -> str | None:
    """The first part of a path below DATA/models; `model+adapter` names two, of which the first is looked at."""
    path = Path(text.partition("+")[0])
    if path.is_absolute():
        if not path.is_relative_to(models):
            return None
        path = path.relative_to(models)
    return path.parts[0] if path.parts else None


def paths_in(value: Any, key: str = "") -> Iterator[str]:
    """Texts that name a place on the server."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from paths_in(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from paths_in(inner, key)
    elif isinstance(value, str) and key in _MODEL_KEYS | {"file", "directory"}:
        yield from (part for part in value.split("+") if part.startswith(("/", "~", "file:")) or ".." in part)


def projects_in(value: Any, key: str = "") -> Iterator[str]:
    """Projects that a body or a query names."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from projects_in(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from projects_in(inner, key)
    elif isinstance(value, str) and key == "project":
        yield value


def outside(path: str, roots: Iterable[Path], base: Path) -> bool:
    """Whether a path leads out of every root, links followed."""
    if path.startswith(("~", "file:")) or "\0" in path:
        return True
    found = (base / path).resolve()
    return not any(found.is_relative_to(root) for root in roots)


def shown(value: Any) -> set[str]:
    """Ids in an answer."""
    return {_plain(found) for found in _UUID.findall(json.dumps(value))}


def without(value: Any, foreign: frozenset[str], project: str) -> tuple[Any, bool]:
    """An answer without what belongs to others; False when what remains is itself another's."""
    if isinstance(value, list):
        kept = [without(item, foreign, project) for item in value]
        return [item for item, mine in kept if mine], True
    if isinstance(value, Mapping):
        parts = {key: without(inner, foreign, project) for key, inner in value.items()}
        owner = value.get("project")
        mine = all(good for _, good in parts.values()) and (not isinstance(owner, str) or owner == project)
        return {key: inner for key, (inner, _) in parts.items()}, mine
    if isinstance(value, str):
        return value, not any(_plain(found) in foreign for found in _UUID.findall(value))
    return value, True


def told_of(body: Mapping[str, Any], about: str | None) -> list[str]:
    """The ids an event tells of: all of them belong to one project."""
    ids = [str(v) for k, v in body.items() if k.endswith("_id") and isinstance(v, str) and _FULL_UUID.fullmatch(v)]
    return list(dict.fromkeys(map(_plain, [*ids, *([about] if about and _FULL_UUID.fullmatch(about) else [])])))


def _plain(text: str) -> str:
    """A UUID as the database spells it."""
    digits = text.replace("-", "").lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
