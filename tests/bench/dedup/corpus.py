"""Texts with planted duplicates: paragraphs of docstrings, edited by rules, and hard negatives that only look like copies."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WORDS = re.compile(r"\w+|\W+")
_CONTENT = re.compile(r"[A-Za-z]{5,}")


@dataclass(frozen=True)
class Corpus:
    """`texts` in their order; `planted` are rows that repeat an earlier one, `hard` rows that must stay.

    `light` are copies with a quarter of their long words replaced: most people would call them the same text edited,
    some a hard negative, so what becomes of them is shown and held against nothing.
    """

    texts: list[str]
    planted: set[int]
    hard: set[int]
    light: set[int]


def paragraphs(count: int) -> list[str]:
    """Distinct paragraphs (60 to 600 characters) of the docstrings of the installed packages, in a fixed order."""
    found: dict[str, None] = {}
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            for text in _docstrings(path):
                for part in text.split("\n\n"):
                    plain = " ".join(part.split())
                    if 60 <= len(plain) <= 600 and len(_CONTENT.findall(plain)) >= 5:
                        found.setdefault(plain, None)
            if len(found) >= 3 * count:
                break
    chosen = random.Random(1).sample(sorted(found), min(count, len(found)))
    if len(chosen) < count:
        raise RuntimeError(f"only {len(chosen)} paragraphs were found, {count} are wanted")
    return chosen


def planted(originals: int, duplicates: int, negatives: int, seed: int = 7) -> Corpus:
    """`originals` paragraphs first, then shuffled copies (exact, surface, drop, synonym, extend), hard negatives, light edits.

    A hard negative is a paragraph with a quarter of its words replaced by words of others. That gives the Jaccard
    indices of the negatives in the reference measurement (0.5 and more for 21 % there, 25 to 30 % here; 0.7 for 0.4 %,
    0 to 0.7 % here); replacing only words of five letters and more does not (97 % and 22 %).
    """
    base = paragraphs(originals)
    rng = random.Random(seed)
    pool = sorted({w for text in base for w in re.findall(r"[a-z]{5,}", text.lower())})
    edits = [_exact, _surface, _drop, _synonym, _extend]
    sources = rng.sample(range(originals), duplicates + 2 * negatives)
    extra = [(edits[i % 5](base[s], rng, pool), "planted") for i, s in enumerate(sources[:duplicates])]
    hard, light = sources[duplicates : duplicates + negatives], sources[duplicates + negatives :]
    extra += [(_replaced(base[s], rng, pool, shortest=2), "hard") for s in hard]
    extra += [(_replaced(base[s], rng, pool, shortest=5), "light") for s in light]
    rng.shuffle(extra)
    rows = {
        kind: {originals + i for i, (_, k) in enumerate(extra) if k == kind} for kind in ("planted", "hard", "light")
    }
    return Corpus(base + [text for text, _ in extra], **rows)


def _exact(text: str, rng: random.Random, pool: list[str]) -> str:
    return text


def _surface(text: str, rng: random.Random, pool: list[str]) -> str:
    changed = text.replace(", ", " , ").replace(" ", "  ", 3)
    return changed.upper() if rng.random() < 0.3 else changed.lower().rstrip(".") + rng.choice(["", "!", " .", ";"])


def _drop(text: str, rng: random.Random, pool: list[str]) -> str:
    words = text.split(" ")
    for _ in range(max(1, len(words) // 15)):
        del words[rng.randrange(len(words))]
    return " ".join(words)


def _synonym(text: str, rng: random.Random, pool: list[str]) -> str:
    swaps = {
        "return": "give back", "returns": "gives back", "if": "when", "the": "this", "must": "has to", "a": "one",
        "can": "may", "should": "ought to", "value": "quantity", "given": "provided", "object": "item",
    }  # fmt: skip
    words = text.split(" ")
    places = [i for i, w in enumerate(words) if w.lower() in swaps]
    for place in rng.sample(places, min(len(places), max(1, len(words) // 12))):
        words[place] = swaps[words[place].lower()]
    return " ".join(words)


def _extend(text: str, rng: random.Random, pool: list[str]) -> str:
    tail = rng.choice(["See also the notes below.", "This is the default.", "Please note this.", "For example:"])
    return f"{text} {tail}"


def _replaced(text: str, rng: random.Random, pool: list[str], shortest: int) -> str:
    """A quarter of the words of at least `shortest` characters replaced."""
    parts = _WORDS.findall(text)
    words = [i for i, part in enumerate(parts) if part[0].isalnum() and len(part) >= shortest]
    for place in rng.sample(words, min(len(words), max(1, round(len(words) / 4)))):
        parts[place] = rng.choice(pool)
    return "".join(parts)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text
