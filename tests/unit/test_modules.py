"""Rules about the source itself: every module opens with a sentence that says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    p for folder in ("libs", "services") for p in (ROOT / folder).rglob("*.py") if "node_modules" not in p.parts
)


def test_every_module_opens_with_a_sentence() -> None:
    silent = [str(p.relative_to(ROOT)) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "helpers", "manager", "common", "misc"}
    assert not [p for p in SOURCES if p.stem in vague]
