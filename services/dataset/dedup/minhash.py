"""Near-duplicates by their characters: MinHash proposes pairs (banded, Broder 1997), the exact Jaccard index decides.

With 40 bands of 4 rows, a pair of Jaccard J is proposed with probability 1 - (1 - J^4)^40: 0.996 at 0.6, 0.99998 at 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from services.dataset.dedup.pairs import Pairs
from services.dataset.dedup.texts import U64, char_runs

BANDS, BAND_ROWS = 40, 4
RUN_LENGTH = 5
# Below this MinHash misses too many pairs for the stored ones to be called all.
LOWEST_FLOOR = 0.6
# In a bucket, a row is compared with this many of the first: buckets of thousands come from templated rows, whose first
# members are each other's twins.
_BUCKET = 64
_CHUNK = 1 << 16
_SETS_HELD = 20_000


def near_pairs(texts: Sequence[str], floor: float, *, protected: int = 0, within: bool = True) -> Pairs:
    """Pairs of texts whose sets of 5-character runs have a Jaccard index >= `floor` (see the module for what is missed).

    `protected` and `within` as in `cosine.pairs_above`. Empty texts are similar to nothing.
    """
    later, earlier = _proposed(signatures(texts), np.array([len(text) > 0 for text in texts]))
    keep = later >= protected
    if not within:
        keep &= earlier < protected
    later, earlier = later[keep], earlier[keep]
    score = jaccard(texts, later, earlier)
    return Pairs(later, earlier, score).where(score >= floor)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """MinHash signatures, uint32 [texts, BANDS * BAND_ROWS]; of an empty text, the largest value throughout."""
    count = BANDS * BAND_ROWS
    random = np.random.default_rng(5_000_011)
    factor = random.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offset = random.integers(0, 2**63, count, dtype=np.uint64)
    signature = np.full((len(texts), count), np.iinfo(np.uint32).max, dtype=np.uint32)
    for rows, runs, starts in _chunks(texts):
        scratch = np.empty_like(runs)
        for k in range(count):
            np.multiply(runs, factor[k], out=scratch)
            scratch += offset[k]
            scratch >>= np.uint64(32)
            signature[rows, k] = np.minimum.reduceat(scratch, starts)
    return signature


def jaccard(texts: Sequence[str], later: NDArray[np.int64], earlier: NDArray[np.int64]) -> NDArray[np.float64]:
    """The exact Jaccard index of the sets of 5-character runs, for each pair of places in `texts`; 0 for empty texts."""
    held: dict[int, frozenset[int]] = {}

    def runs_of(row: int) -> frozenset[int]:
        found = held.get(row)
        if found is None:
            if len(held) >= _SETS_HELD:
                held.clear()
            found = held[row] = frozenset(char_runs(texts[row], RUN_LENGTH).tolist())
        return found

    score = np.zeros(len(later), dtype=np.float64)
    for index, (a, b) in enumerate(zip(later.tolist(), earlier.tolist(), strict=True)):
        one, other = runs_of(a), runs_of(b)
        common = len(one & other)
        if common:
            score[index] = common / (len(one) + len(other) - common)
    return score


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


def _proposed(signature: NDArray[np.uint32], usable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs that share a band, as (later, earlier)."""
    rows = len(signature)
    found = np.empty(0, dtype=np.int64)
    usable_rows = np.flatnonzero(usable)
    for band in range(BANDS):
        part = np.ascontiguousarray(signature[usable_rows, band * BAND_ROWS : (band + 1) * BAND_ROWS])
        keys = part.view([("", part.dtype)] * BAND_ROWS).ravel()
        found = np.union1d(found, _bucket_pairs(keys, usable_rows, rows))
    return found // rows, found % rows


def _bucket_pairs(keys: NDArray[np.void], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pairs within equal keys, as later * count + earlier."""
    _, bucket = np.unique(keys, return_inverse=True)
    order = np.argsort(bucket, kind="stable")
    sizes = np.bincount(bucket)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(order)) - starts[bucket[order]]
    parts: list[NDArray[np.int64]] = []
    for back in range(min(_BUCKET, int(sizes.max(initial=1)) - 1)):
        # Every member against the `back`-th of its bucket.
        later = np.flatnonzero(place > back)
        earlier = starts[bucket[order[later]]] + back
        parts.append(rows[order[later]] * count + rows[order[earlier]])
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
