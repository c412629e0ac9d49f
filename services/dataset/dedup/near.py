"""Near-duplicates by their characters: short codes propose pairs, the exact Jaccard index decides.

Which codes are compared depends on the rows. Where few rows share a band of their signature (40 bands of 4 hashes; a
pair of Jaccard index 0.6 shares one with probability 0.996, one of 0.7 with 0.99998), those that share one are compared,
however large a bucket is. Where rows are made of the same words, nearly all share a band: then all codes are compared,
2.5 nanoseconds a pair, and nothing is missed by bands at all. Only pairs whose code comes near enough (missed once in
2000 at the floor) are measured, and past `max_pairs` of them nothing is kept but what keep-first removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from services.dataset.dedup.minhash import Codes, Jaccard, Progress, codes_of, distance_limit, jaccard, signatures
from services.dataset.dedup.pairs import Pairs, Removals, TooManyPairsError

BANDS, BAND_ROWS = 40, 4
# Below this the bands miss too many pairs for the stored ones to be called all.
LOWEST_FLOOR = 0.6
_BLOCK, _COLUMNS = 1024, 8192
_PAIRS_AT_ONCE = 1 << 21
# Measured on one EPYC core: nanoseconds to compare the codes of a pair picked from a bucket, and in a scan of all.
_COST_PICKED, _COST_SCANNED = 120.0, 2.5
# Shares of the time that a caller is told of.
_SIGNED, _PROPOSED = 0.3, 0.8
# Keep-first alone measures a row against this many of those that stay, nearest code first.
_TRIED = 256

# Which of some earlier rows a row may be a copy of, beside its text.
Also = Callable[[int, NDArray[np.int64]], NDArray[np.bool_]]


def near_pairs(
    texts: Sequence[str],
    floor: float,
    *,
    protected: int = 0,
    within: bool = True,
    max_pairs: int = 5_000_000,
    progress: Progress | None = None,
) -> Pairs:
    """Pairs of texts whose sets of 5-character runs have a Jaccard index >= `floor` (see the module for what is missed).

    `protected` and `within` as in `cosine.pairs_above`. Empty texts are similar to nothing. Raises TooManyPairsError
    when more than `max_pairs` would have to be measured.
    """
    tell = progress or _untold
    signature = signatures(texts, lambda share: tell(_SIGNED * share))
    usable = _usable(texts)
    codes, limit = codes_of(signature), distance_limit(floor)
    total = len(usable) * (len(usable) - 1) / 2
    if _band_pairs(signature, usable) * _COST_PICKED <= total * _COST_SCANNED:
        parts = _in_bands(signature, usable, codes, limit)
    else:
        parts = _in_scan(usable, codes, limit)
    found = np.empty(0, dtype=np.int64)
    rows = max(1, len(texts))
    for share, later, earlier in parts:
        keep = later >= protected
        if not within:
            keep &= earlier < protected
        found = np.union1d(found, later[keep] * rows + earlier[keep])
        if len(found) > max_pairs:
            raise TooManyPairsError
        tell(_SIGNED + (_PROPOSED - _SIGNED) * share)
    later, earlier = found // rows, found % rows
    score = np.empty(len(found), dtype=np.float64)
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        score[part] = jaccard(texts, later[part], earlier[part])
        tell(_PROPOSED + (1 - _PROPOSED) * min(1.0, (start + _PAIRS_AT_ONCE) / len(found)))
    return Pairs(later, earlier, score).where(score >= floor)


def keep_first_near(
    texts: Sequence[str],
    threshold: float,
    *,
    protected: int = 0,
    also: Also | None = None,
    progress: Progress | None = None,
) -> Removals:
    """What `keep_first(near_pairs(...))` gives, measuring rows only against rows that stay: for clusters with too many pairs.

    A row's twin is the first whose measure suffices, nearest code first; after `_TRIED` of them the row stays. `also`
    says which of some earlier rows may be twins of a row at all.
    """
    tell = progress or _untold
    codes = codes_of(signatures(texts, lambda share: tell(_SIGNED * share)))
    usable, limit = _usable(texts), distance_limit(threshold)
    exact = Jaccard(texts)
    kept = np.empty(0, dtype=np.int64)
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(usable), _BLOCK):
        rows = usable[start : start + _BLOCK]
        # Against what stayed of the blocks before, then against what stays of this one.
        outside = _by_row(codes, rows, kept, limit)
        inside = _distances(codes[rows], codes[rows])
        stays = np.zeros(len(rows), dtype=np.bool_)
        for place, row in enumerate(rows.tolist()):
            near = np.flatnonzero(stays & (inside[place] <= limit))
            candidates = np.concatenate([outside[place][0], rows[near]])
            order = np.argsort(np.concatenate([outside[place][1], inside[place][near]]), kind="stable")
            twin = None if row < protected else _twin(row, candidates[order], exact, threshold, also)
            if twin is None:
                stays[place] = True
            else:
                found.append((row, *twin))
        kept = np.concatenate([kept, rows[stays]])
        tell(_SIGNED + (1 - _SIGNED) * min(1.0, (start + _BLOCK) / len(usable)))
    row, twin, score = zip(*found, strict=True) if found else ((), (), ())
    return Removals(np.array(row, np.int64), np.array(twin, np.int64), np.array(score, np.float64))


def _twin(
    row: int, candidates: NDArray[np.int64], exact: Jaccard, threshold: float, also: Also | None
) -> tuple[int, float] | None:
    if also is not None and len(candidates):
        candidates = candidates[also(row, candidates)]
    for candidate in candidates[:_TRIED].tolist():
        score = exact(row, candidate)
        if score >= threshold:
            return candidate, score
    return None


def _by_row(
    codes: Codes, rows: NDArray[np.int64], kept: NDArray[np.int64], limit: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """For each row the kept rows within the limit, and their distances."""
    places: list[NDArray[np.int64]] = []
    near: list[NDArray[np.int64]] = []
    far: list[NDArray[np.int32]] = []
    for start in range(0, len(kept), _COLUMNS):
        columns = kept[start : start + _COLUMNS]
        distance = _distances(codes[rows], codes[columns])
        place, column = np.nonzero(distance <= limit)
        places.append(place)
        near.append(columns[column])
        far.append(distance[place, column])
    if not places:
        return [(np.empty(0, np.int64), np.empty(0, np.int32))] * len(rows)
    order = np.argsort(np.concatenate(places), kind="stable")
    bounds = np.searchsorted(np.concatenate(places)[order], np.arange(1, len(rows)))
    columns, distances = np.concatenate(near)[order], np.concatenate(far)[order]
    return list(zip(np.split(columns, bounds), np.split(distances, bounds), strict=True))


def _usable(texts: Sequence[str]) -> NDArray[np.int64]:
    """Places of the texts that are not blank."""
    return np.flatnonzero(np.fromiter((bool(text.strip()) for text in texts), np.bool_, len(texts)))


def _distances(one: Codes, other: Codes) -> NDArray[np.int32]:
    """Hamming distances int32 [one, other] of codes."""
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    found = np.empty((len(one), len(other)), dtype=np.int32)
    if found.size:
        # One thread: the other cores belong to others.
        faiss.omp_set_num_threads(1)
        left, right = (faiss.swig_ptr(side.view(np.uint8)) for side in (one, other))
        faiss.hammings(  # pyright: ignore[reportAttributeAccessIssue] # of faiss's compiled part
            left, right, len(one), len(other), one.shape[1] * 8, faiss.swig_ptr(found)
        )
    return found


_Found = Iterator[tuple[float, NDArray[np.int64], NDArray[np.int64]]]


def _in_scan(usable: NDArray[np.int64], codes: Codes, limit: int) -> _Found:
    """(share done, later, earlier) of pairs within the limit, all codes compared."""
    dense = codes[usable]
    total = max(1.0, len(usable) ** 2 / 2)
    for start in range(0, len(usable), _BLOCK):
        for column in range(0, start + _BLOCK, _COLUMNS):
            distance = _distances(dense[start : start + _BLOCK], dense[column : min(column + _COLUMNS, start + _BLOCK)])
            later, earlier = np.nonzero(distance <= limit)
            later, earlier = later + start, earlier + column
            below = earlier < later
            yield min(1.0, start * start / 2 / total), usable[later[below]], usable[earlier[below]]


def _in_bands(signature: NDArray[np.uint32], usable: NDArray[np.int64], codes: Codes, limit: int) -> _Found:
    """(share done, later, earlier) of pairs that share a band and whose codes are within the limit."""
    for band in range(BANDS):
        order, starts, sizes = _buckets(signature, usable, band)
        rows = usable[order]
        place = np.arange(len(order)) - np.repeat(starts, sizes)
        # A member is compared with all before it in its bucket, so many members at once that their pairs fit memory.
        ends = np.cumsum(place)
        first = 0
        while first < len(order):
            done = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
            later = np.repeat(np.arange(first, last), place[first:last])
            back = np.arange(len(later)) - np.repeat(ends[first:last] - place[first:last] - done, place[first:last])
            later, earlier = rows[later], rows[later - place[later] + back]
            near = np.bitwise_count(codes[later] ^ codes[earlier]).sum(axis=1) <= limit
            yield (band + last / len(order)) / BANDS, later[near], earlier[near]
            first = last


def _band_pairs(signature: NDArray[np.uint32], usable: NDArray[np.int64]) -> float:
    """How many pairs share a band, counted once for each band."""
    total = 0.0
    for band in range(BANDS):
        sizes = _buckets(signature, usable, band)[2].astype(np.float64)
        total += float((sizes * (sizes - 1) / 2).sum())
    return total


def _buckets(
    signature: NDArray[np.uint32], usable: NDArray[np.int64], band: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(places in `usable` bucket by bucket, in their order; where each bucket starts; its size)."""
    part = np.ascontiguousarray(signature[usable, band * BAND_ROWS : (band + 1) * BAND_ROWS]).astype(np.uint64)
    # Four values of 32 bits in one key of 64: a collision only adds a comparison.
    key = np.zeros(len(part), dtype=np.uint64)
    for column in range(BAND_ROWS):
        key = (key ^ part[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]) != 0) if len(key) else order
    return order, starts, np.diff(np.append(starts, len(order)))


def _untold(_: float) -> None:
    """Nobody asked how far it is."""
