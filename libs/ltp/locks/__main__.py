"""`python -m ltp.locks`: write the locks from `constraints.txt` and from what the installed packages require of each other."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import tomllib
from collections.abc import Iterable
from typing import Any

from packaging.requirements import Requirement

from ltp.locks import FOLDER, canonical, read

# Extras of the distribution `ltp` that a machine of each role needs.
_EXTRAS = {
    "manager": ("gateway", "planner", "scheduler", "runner", "dataset", "evaluator", "embedded"),
    "training": ("training",),
}
_DESCRIPTIONS = {
    "manager": "the platform's services and CLI; no torch. Linux x86-64, and macOS on Apple Silicon",
    "training": "verl on a processor, or on a GPU with transformers rollout",
    "gpu": "verl with vLLM on NVIDIA GPUs: verl's own pins, which exclude those of `training`",
}
# A lock of what cannot be installed beside `training`: pins of `pyproject.toml`, without what they bring along.
_GPU = "gpu"


def main() -> int:
    """Write all files; the exit code."""
    root = FOLDER.parents[2]
    pins = dict(_pins((root / "constraints.txt").read_text().splitlines()))
    locks = {role: _closure(extras, pins) for role, extras in _EXTRAS.items()}
    # What it brings along was recorded on an H200 and is kept until recorded anew.
    locks[_GPU] = {**read(_GPU), **dict(_pins(_own()["optional-dependencies"][_GPU]))}
    table: dict[str, object] = {}
    for role, lock in locks.items():
        lines = [f"# {_DESCRIPTIONS[role]}. Written by `python -m ltp.locks`."]
        text = "\n".join([*lines, *(f"{name}=={version}" for name, version in sorted(lock.items()))]) + "\n"
        (FOLDER / f"{role}.txt").write_text(text)
        table[role] = {
            "for": _DESCRIPTIONS[role],
            "python": ">=3.11,<3.13",
            "packages": len(lock),
            "digest": hashlib.sha256(text.encode()).hexdigest(),
            "verl": lock.get("verl"),
            "torch": lock.get("torch"),
        }
    content = {"format": 1, "ltp": _own()["version"], "roles": table}
    (FOLDER / "versions.json").write_text(json.dumps(content, indent=2) + "\n")
    sys.stdout.write("".join(f"{role}: {len(lock)} packages\n" for role, lock in locks.items()))
    return 0


def _pins(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals and ">" not in name:
            yield canonical(name), version.strip()


def _own() -> dict[str, Any]:
    """What the distribution itself requires, by the file and not by what happens to be installed."""
    project: dict[str, Any] = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text())["project"]
    return project


def _start(extras: Iterable[str]) -> list[Requirement]:
    own = _own()
    return [
        Requirement(t) for t in [*own["dependencies"], *(t for e in extras for t in own["optional-dependencies"][e])]
    ]


def _requirements(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """What a package requires here and with these extras."""
    try:
        told = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(text) for text in told]
    chosen = ["", *extras]
    return [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in chosen)]


def _closure(extras: Iterable[str], pins: dict[str, str]) -> dict[str, str]:
    """All that the extras bring along, at the tested versions."""
    found: dict[str, str] = {}
    open_: list[Requirement] = _start(extras)
    while open_:
        requirement = open_.pop()
        name = canonical(requirement.name)
        version = pins.get(name) or _installed(name)
        if name in found or version is None:
            continue
        found[name] = version
        open_ += _requirements(requirement.name, requirement.extras)
    return found


def _installed(name: str) -> str | None:
    """Of a package that came after the constraints were written."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
