"""MinHash signatures of texts (Broder 1997), their short codes whose distance estimates the Jaccard index, and the index itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from services.dataset.dedup.texts import U64, char_runs

HASHES = 160
RUN_LENGTH = 5
CODE_WORDS = 8
_CHUNK = 1 << 16
# Runs held as sets, about 90 bytes each.
_RUNS_HELD = 4_000_000
# Of four vertices, any two differ in two of three bits.
_VERTICES = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.uint8)

Codes = NDArray[np.uint64]
Progress = Callable[[float], None]


def signatures(texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.uint32]:
    """MinHash signatures, uint32 [texts, HASHES]; of an empty text, the largest value throughout."""
    random = np.random.default_rng(5_000_011)
    factor = random.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offset = random.integers(0, 2**63, HASHES, dtype=np.uint64)
    signature = np.full((len(texts), HASHES), np.iinfo(np.uint32).max, dtype=np.uint32)
    for rows, runs, starts in _chunks(texts):
        scratch = np.empty_like(runs)
        for k in range(HASHES):
            np.multiply(runs, factor[k], out=scratch)
            scratch += offset[k]
            scratch >>= np.uint64(32)
            signature[rows, k] = np.minimum.reduceat(scratch, starts)
        if progress is not None:
            progress(float(rows[-1] + 1) / len(texts))
    return signature


def codes_of(signature: NDArray[np.uint32]) -> Codes:
    """Codes uint64 [texts, CODE_WORDS] whose Hamming distance is twice the number of hashes that differ in their low two bits.

    Two hashes that differ do so in their low bits three times in four, so a pair of Jaccard index J is expected at
    a distance of 2 * HASHES * 3/4 * (1 - J).
    """
    codes = np.zeros((len(signature), CODE_WORDS * 8), dtype=np.uint8)
    for start in range(0, len(signature), 8192):
        bits = _VERTICES[signature[start : start + 8192] & 3].reshape(-1, HASHES * 3)
        codes[start : start + 8192, : HASHES * 3 // 8] = np.packbits(bits, axis=1)
    return codes.view(np.uint64)


def distance_limit(floor: float, deviations: float = 3.3) -> int:
    """The distance of codes that a pair of Jaccard index `floor` stays within, but for one in 2000 (3.3 deviations)."""
    share = 0.75 * (1 - floor)
    return 2 * int(HASHES * share + deviations * np.sqrt(HASHES * share * (1 - share)))


class Jaccard:
    """The exact Jaccard index of the sets of 5-character runs of two texts; sets are held up to a bounded number of runs."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._held: dict[int, frozenset[int]] = {}
        self._runs = 0

    def __call__(self, one: int, other: int) -> float:
        """Of the texts at two places; 0 for empty ones."""
        a, b = self._of(one), self._of(other)
        common = len(a & b)
        return common / (len(a) + len(b) - common) if common else 0.0

    def _of(self, row: int) -> frozenset[int]:
        found = self._held.get(row)
        if found is None:
            found = frozenset(char_runs(self._texts[row], RUN_LENGTH).tolist())
            if self._runs + len(found) > _RUNS_HELD:
                self._held.clear()
                self._runs = 0
            self._held[row] = found
            self._runs += len(found)
        return found


def jaccard(texts: Sequence[str], later: NDArray[np.int64], earlier: NDArray[np.int64]) -> NDArray[np.float64]:
    """The exact Jaccard index for each pair of places in `texts`; 0 for empty texts."""
    exact = Jaccard(texts)
    pairs = zip(later.tolist(), earlier.tolist(), strict=True)
    return np.fromiter((exact(a, b) for a, b in pairs), np.float64, len(later))


def _chunks(texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], U64, NDArray[np.int64]]]:
    """(rows, their runs one after the other, where each row's begin), about as many as the cache holds."""
    rows: list[int] = []
    parts: list[U64] = []
    size = 0
    for row, text in enumerate(texts):
        runs = char_runs(text, RUN_LENGTH)
        if len(runs) == 0:
            continue
        rows.append(row)
        parts.append(runs)
        size += len(runs)
        if size >= _CHUNK:
            yield _packed(rows, parts)
            rows, parts, size = [], [], 0
    if rows:
        yield _packed(rows, parts)


def _packed(rows: list[int], parts: list[U64]) -> tuple[NDArray[np.int64], U64, NDArray[np.int64]]:
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    return np.array(rows, dtype=np.int64), np.concatenate(parts), starts.astype(np.int64)
