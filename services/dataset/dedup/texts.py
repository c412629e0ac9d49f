"""Texts as the lexical methods compare them: one normal form, and hashed runs of characters or words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+")
# An odd multiplier (Knuth's golden ratio, 64 bits): position k of a run is weighed by its k-th power.
_BASE = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def normalised(text: str) -> str:
    """NFKC, case folded, every run of white space one blank: what a reader would call the same text."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def text_key(text: str) -> bytes:
    """16 bytes of BLAKE2b over the text as it is."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def char_runs(text: str, size: int = 5) -> U64:
    """Hashes of all runs of `size` characters of the normalised text, in order, shape [characters - size + 1].

    A text shorter than `size` is one run; an empty one has none.
    """
    points = np.frombuffer(normalised(text).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    return _runs(points, size)


def word_runs(text: str, size: int) -> U64:
    """Hashes of all runs of `size` words of the normalised text; a shorter text is one run, an empty one has none."""
    words = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _WORD.findall(normalised(text))]
    return _runs(np.array(words, dtype=np.uint64), size)


def distinct(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows of first occurrences, for every row the position of its text among them). Equal means equal as it is."""
    first: dict[bytes, int] = {}
    rows: list[int] = []
    where = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        position = first.setdefault(text_key(text), len(rows))
        if position == len(rows):
            rows.append(row)
        where[row] = position
    return np.array(rows, dtype=np.int64), where


def _runs(items: U64, size: int) -> U64:
    if len(items) == 0:
        return items
    size = min(size, len(items))
    total: NDArray[Any] = np.zeros(len(items) - size + 1, dtype=np.uint64)
    for k in range(size):
        total += items[k : k + len(total)] * np.uint64(pow(_BASE, k + 1, _MASK + 1))
    # The multiply leaves the low bits weak; a xor-shift and another multiply (splitmix64) spread them.
    total ^= total >> np.uint64(31)
    total *= np.uint64(0xBF58476D1CE4E5B9)
    return total ^ (total >> np.uint64(29))
