"""The versions that were tested together, by the role of a machine: what set-up installs and what `ltp verify` compares with.

`manager.txt`, `training.txt` and `gpu.txt` are requirement files that pip reads as they are; `versions.json` says of each
what it is for, its Python and its digest. All are written by `python -m ltp.locks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

FOLDER = Path(__file__).parent
Role = Literal["manager", "training", "gpu"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Difference:
    """A package that is not as the lock says; None where it is missing."""

    name: str
    wanted: str
    found: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.found or 'missing'} (lock {self.wanted})"


@cache
def read(role: str) -> Mapping[str, str]:
    """Package -> version of a role's lock. Raises KeyError for a role there is not."""
    if role not in ROLES:
        raise KeyError(role)
    lines = (line.partition("#")[0].strip() for line in (FOLDER / f"{role}.txt").read_text().splitlines())
    return {name: version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


def versions() -> dict[str, Any]:
    """The machine-readable file."""
    return json.loads((FOLDER / "versions.json").read_text())


def package_names() -> list[str]:
    """Every package that some lock of a host names."""
    return sorted({*read("training"), *read("gpu")})


def compare(lock: Mapping[str, str], found: Mapping[str, str | None]) -> list[Difference]:
    """What is not as the lock says, by name."""
    return [
        Difference(name, wanted, found.get(name))
        for name, wanted in sorted(lock.items())
        if not same(found.get(name) or "", wanted)
    ]


def same(found: str, wanted: str) -> bool:
    """Whether two versions agree; the build (`+cpu`, `+cu128`) is the machine's affair."""
    return found.partition("+")[0] == wanted.partition("+")[0]


def canonical(name: str) -> str:
    """A package's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
