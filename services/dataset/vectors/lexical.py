"""Search by words: BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) over postings that are mapped from a file."""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltp.contracts.dedup import TextPart
from services.dataset.vectors.index import F32, Hits, Mask, ranked
from services.dataset.vectors.rows import open_rows

_K1, _B = 1.2, 0.75
# Words; and each character by itself in scripts that are written without blanks.
_TOKEN = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯]|[^\W_぀-ヿ㐀-䶿一-鿿가-힯]+")
_LONGEST = 64
# Of a huge text the first words tell what it is about; more would let one row fill the index.
_MOST_CHARACTERS = 200_000


def tokens(text: str) -> list[str]:
    """The words of a text as they are compared."""
    plain = unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).casefold()
    return [word[:_LONGEST] for word in _TOKEN.findall(plain)]


class LexicalIndex:
    """The postings of one part of one version: words, and per word the rows that hold it with its weight there."""

    def __init__(self, words: list[str], starts: NDArray[np.int64], rows: NDArray[np.int32], weights: F32) -> None:
        self._place = {word: place for place, word in enumerate(words)}
        self._starts, self._rows, self._weights = starts, rows, weights

    def search(self, query: str, count: int, limit: int, allowed: Mask | None = None) -> Hits:
        """The `limit` rows of `count` with the highest BM25 score above zero, among `allowed` where given."""
        score = np.zeros(count, dtype=np.float32)
        for word in sorted(set(tokens(query))):
            place = self._place.get(word)
            if place is not None:
                part = slice(self._starts[place], self._starts[place + 1])
                score[self._rows[part]] += self._weights[part]  # a word has each row once
        if allowed is not None:
            score[~allowed] = 0.0
        rows = np.flatnonzero(score)
        if len(rows) > limit:
            border = np.partition(score[rows], len(rows) - limit)[len(rows) - limit]
            rows = rows[score[rows] >= border]
        return ranked(rows.astype(np.int64), score[rows], limit)


def lexical_path(folder: Path, part: TextPart) -> Path:
    """Where the index of a part stands."""
    return folder / f"{part}.bm25.npz"


def open_lexical(folder: Path, part: TextPart) -> LexicalIndex:
    """Load the index of a part. Raises FileNotFoundError when it was not built."""
    with np.load(lexical_path(folder, part), allow_pickle=False) as held:
        words = bytes(held["words"]).decode().split("\n")
        return LexicalIndex(words, held["starts"], held["rows"], held["weights"])


def build_lexical(folder: Path, splits: Mapping[str, Path], part: TextPart) -> None:
    """Write the index of a part of a version, whole by one rename (about 30,000 short rows a second)."""
    column = open_rows(folder, splits, part).table.column("text")
    _build(lexical_path(folder, part), (text.as_py() or "" for text in column))


def _build(target: Path, texts: Iterable[str]) -> None:
    vocabulary: dict[str, int] = {}
    words, rows, counts, lengths = array("i"), array("i"), array("i"), array("i")
    for row, text in enumerate(texts):
        found = Counter(tokens(text))
        lengths.append(found.total())
        for word, times in found.items():
            words.append(vocabulary.setdefault(word, len(vocabulary)))
            rows.append(row)
            counts.append(times)
    word = np.frombuffer(words, dtype=np.int32)
    order = np.argsort(word, kind="stable")
    frequency = np.bincount(word, minlength=len(vocabulary))
    row = np.frombuffer(rows, dtype=np.int32)[order]
    weights = _bm25(word[order], row, np.frombuffer(counts, dtype=np.int32)[order], np.array(lengths), frequency)
    starts = np.concatenate([[0], np.cumsum(frequency)]).astype(np.int64)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{os.getpid()}.{target.name}")
    spelt = np.frombuffer("\n".join(vocabulary).encode(), dtype=np.uint8)
    np.savez(draft, words=spelt, starts=starts, rows=row, weights=weights)
    os.replace(draft, target)


def _bm25(
    word: NDArray[np.int32],
    row: NDArray[np.int32],
    times: NDArray[np.int32],
    lengths: NDArray[np.int64],
    frequency: NDArray[np.int64],
) -> F32:
    rarity = np.log1p((len(lengths) - frequency + 0.5) / (frequency + 0.5))
    usual = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
    length = 1 - _B + _B * lengths[row] / usual
    return (rarity[word] * times * (_K1 + 1) / (times + _K1 * length)).astype(np.float32)
