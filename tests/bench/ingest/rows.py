"""The rows of suite `dataset`: a million conversations with labels, about a gigabyte, the same on every machine."""

from __future__ import annotations

import json
import random
from pathlib import Path

_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "was",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
    "were",
    "when",
    "we",
    "there",
    "can",
    "an",
    "your",
    "which",
    "their",
    "said",
    "if",
    "do",
    "will",
    "each",
    "about",
    "how",
    "up",
    "out",
    "them",
    "then",
    "she",
    "many",
    "some",
    "so",
    "these",
    "would",
    "other",
    "into",
    "has",
    "more",
    "her",
    "two",
    "like",
    "him",
    "see",
    "time",
    "could",
    "no",
    "make",
    "than",
    "first",
    "been",
    "its",
    "who",
    "now",
    "people",
    "my",
    "made",
    "over",
    "did",
    "down",
    "only",
    "way",
    "find",
    "use",
    "may",
    "water",
    "long",
    "little",
    "very",
    "after",
    "words",
    "called",
    "just",
    "where",
    "most",
    "know",
]


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows of about a kilobyte as JSONL, once."""
    if path.exists():
        return
    chance = random.Random(7)
    staging = path.with_suffix(".part")
    with staging.open("w") as out:
        for number in range(count):
            out.write(json.dumps(_row(number, chance), ensure_ascii=False) + "\n")
    staging.replace(path)


def _row(number: int, chance: random.Random) -> dict[str, object]:
    words = chance.choices(_WORDS, k=60 + chance.randrange(220))
    cut = 10 + chance.randrange(30)
    question = " ".join(words[:cut]).capitalize() + "?"
    if number % 25 == 0:
        question = "请解释一下这个问题: " + question
    answer = " ".join(words[cut:]).capitalize() + "."
    return {
        "id": f"row-{number}",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "tenant": f"tenant-{chance.randrange(20)}",
        "difficulty": chance.choice(["easy", "medium", "hard"]),
        "score": round(chance.random(), 4),
        "source": chance.choice(["web", "book", "code"]) if number % 10 else None,
    }
