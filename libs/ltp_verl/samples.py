"""Keeps a few responses of each step beside the run's metrics, so that people see what the model answers as it learns.

verl can write every response of every step; that decodes the whole batch each time and fills the disk of a long run. Here a
few prompts' worth is kept: `rollouts.jsonl` (training) and `validation.jsonl`, each bounded, the oldest steps gone first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Responses of a step, characters of a text, and bytes of a file.
MOST_SAMPLES, _MOST_CHARACTERS, _MOST_BYTES = 16, 8_000, 32 << 20


def chosen(keys: Sequence[str]) -> list[int]:
    """Which responses of a step are kept: whole groups of one prompt first, by verl's key `{prompt}_{rollout}_{output}`; pure."""
    order = sorted(range(len(keys)), key=lambda index: (group_of(keys[index]), keys[index]))
    return order[:MOST_SAMPLES]


def group_of(key: str) -> str:
    """The prompt that a response answers."""
    parts = key.rsplit("_", 2)
    return parts[0] if len(parts) == 3 else key


def line(step: int, key: str, prompt: str, response: str, reference: Any, score: Any) -> dict[str, Any]:
    """One response as it is kept. JSON has no NaN: such a score is none."""
    number = float(score) if isinstance(score, int | float) and math.isfinite(score) else None
    return {"step": step, "group": group_of(key), "prompt": _cut(prompt), "response": _cut(response),
            "reference": None if reference is None else _cut(str(reference)), "score": number}  # fmt: skip


def keep(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append lines; a file that has grown too large loses its older half first."""
    if file.exists() and file.stat().st_size > _MOST_BYTES:
        data = file.read_bytes()[-_MOST_BYTES // 2 :]
        rest = file.with_suffix(".part")
        rest.write_bytes(data[data.find(b"\n") + 1 :])
        rest.replace(file)
    with file.open("a", encoding="utf-8", errors="replace") as out:
        out.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
