"""The four ways to call rows the same, and the measured pairs from which any stricter threshold follows without computing again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ltp.contracts.dedup import DedupMethod, Thresholds
from services.dataset.dedup.cosine import F32, Progress, keep_first_above, pairs_above, unit_vectors
from services.dataset.dedup.minhash import jaccard
from services.dataset.dedup.near import keep_first_near, near_pairs
from services.dataset.dedup.pairs import Pairs, Removals, TooManyPairsError, keep_first, spread
from services.dataset.dedup.texts import distinct, normalised


@dataclass(frozen=True)
class Measured:
    """Similar distinct texts with both scores; `floor` says from which thresholds on the pairs are all there are.

    `first` and `where` tie the distinct texts to the rows (`texts.distinct`). `fixed` holds the removals instead when
    the clusters were too large for their pairs to be kept: then the thresholds cannot be moved.
    """

    method: DedupMethod
    floor: Thresholds
    first: NDArray[np.int64]
    where: NDArray[np.int64]
    pairs: Pairs
    cosine: NDArray[np.float64]
    jaccard: NDArray[np.float64]
    fixed: Removals | None = None

    def removals(self, thresholds: Thresholds) -> Removals:
        """What keep-first removes at these thresholds, over all rows. The caller checks them against `floor`."""
        if self.fixed is not None:
            return spread(self.fixed, self.first, self.where)
        mask = np.ones(len(self.pairs), dtype=np.bool_)
        if self.method in {"semantic", "combined"}:
            mask &= self.cosine >= thresholds.cosine
        if self.method in {"near", "combined"}:
            mask &= self.jaccard >= thresholds.jaccard
        return spread(keep_first(self.pairs.where(mask), len(self.first)), self.first, self.where)


def measure(
    method: DedupMethod,
    texts: Sequence[str],
    vectors: NDArray[np.floating] | None,
    floor: Thresholds,
    thresholds: Thresholds,
    *,
    protected: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Measure all pairs of rows that reach `floor`. The first `protected` rows are a reference that nothing is removed from.

    `vectors` [rows, d] are needed by the semantic and the combined method. Copies of the same text are measured once.
    """
    compared = [normalised(text) for text in texts] if method == "exact" else list(texts)
    first, where = distinct(compared)
    none = np.empty(0, np.float64)
    if method == "exact":
        return Measured(method, floor, first, where, Pairs.none(), none, none)
    unique: list[str] = [str(texts[row]) for row in first.tolist()]
    reference = int(np.searchsorted(first, protected))
    if method == "near":
        return _near(unique, first, where, floor, thresholds, reference, progress)
    if vectors is None:
        raise ValueError(f"{method} needs vectors")
    unit = unit_vectors(vectors[first])
    try:
        pairs = pairs_above(unit, floor.cosine, protected=reference, progress=progress)
    except TooManyPairsError:
        if method == "combined":
            return _near(unique, first, where, floor, thresholds, reference, progress, unit)
        found = keep_first_above(unit, thresholds.cosine, protected=reference, progress=progress)
        return _fixed(method, thresholds, first, where, found, found.score, np.full(len(found), np.nan))
    lexical = jaccard(unique, pairs.later, pairs.earlier) if method == "combined" else np.full(len(pairs), np.nan)
    return Measured(method, floor, first, where, pairs, pairs.score, lexical)


def _near(
    texts: list[str],
    first: NDArray[np.int64],
    where: NDArray[np.int64],
    floor: Thresholds,
    thresholds: Thresholds,
    reference: int,
    progress: Progress | None,
    unit: F32 | None = None,
) -> Measured:
    """By the texts first; where there are vectors, the combined method, whose pairs must be near in both."""
    method: DedupMethod = "near" if unit is None else "combined"
    try:
        pairs = near_pairs(texts, floor.jaccard, protected=reference, progress=progress)
    except TooManyPairsError:
        also = None if unit is None else partial(_as_near, unit, thresholds.cosine)
        found = keep_first_near(texts, thresholds.jaccard, protected=reference, also=also, progress=progress)
        return _fixed(method, thresholds, first, where, found, _cosines(unit, found.row, found.twin), found.score)
    cosine = _cosines(unit, pairs.later, pairs.earlier)
    if unit is not None:
        both = cosine >= floor.cosine
        pairs, cosine = pairs.where(both), cosine[both]
    lexical = pairs.score
    # The twin of the combined method is the one with the highest cosine, whichever way its pairs were found.
    kept = pairs if unit is None else Pairs(pairs.later, pairs.earlier, cosine)
    return Measured(method, floor, first, where, kept, cosine, lexical)


def _fixed(
    method: DedupMethod,
    thresholds: Thresholds,
    first: NDArray[np.int64],
    where: NDArray[np.int64],
    found: Removals,
    cosine: NDArray[np.float64],
    lexical: NDArray[np.float64],
) -> Measured:
    pairs = Pairs(found.row, found.twin, found.score)
    return Measured(method, thresholds, first, where, pairs, cosine, lexical, fixed=found)


def _as_near(unit: F32, threshold: float, row: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
    return unit[others].astype(np.float64) @ unit[row].astype(np.float64) >= threshold


def _cosines(unit: F32 | None, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each pair, in float64; not a number without vectors."""
    found = np.full(len(one), np.nan)
    for start in range(0, len(one) if unit is not None else 0, 65_536):
        assert unit is not None
        part = slice(start, start + 65_536)
        exact = np.einsum("ij,ij->i", unit[one[part]].astype(np.float64), unit[other[part]].astype(np.float64))
        found[part] = np.minimum(exact, 1.0)
    return found
