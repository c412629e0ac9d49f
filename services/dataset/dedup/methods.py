"""The four ways to call rows the same, and the measured pairs from which any stricter threshold follows without computing again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltp.contracts.dedup import DedupMethod, Thresholds
from services.dataset.dedup.cosine import F32, Progress, TooManyPairsError, keep_first_above, pairs_above, unit_vectors
from services.dataset.dedup.minhash import jaccard, near_pairs
from services.dataset.dedup.pairs import Pairs, Removals, keep_first, spread
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
        pairs = near_pairs(unique, floor.jaccard, protected=reference)
        return Measured(method, floor, first, where, pairs, np.full(len(pairs), np.nan), pairs.score)
    if vectors is None:
        raise ValueError(f"{method} needs vectors")
    unit = unit_vectors(vectors[first])
    try:
        pairs = pairs_above(unit, floor.cosine, protected=reference, progress=progress)
    except TooManyPairsError:
        return _fixed(method, unit, unique, thresholds, first, where, reference)
    lexical = jaccard(unique, pairs.later, pairs.earlier) if method == "combined" else np.full(len(pairs), np.nan)
    return Measured(method, floor, first, where, pairs, pairs.score, lexical)


def _fixed(
    method: DedupMethod,
    unit: F32,
    texts: list[str],
    thresholds: Thresholds,
    first: NDArray[np.int64],
    where: NDArray[np.int64],
    reference: int,
) -> Measured:
    """Removals at the thresholds alone. For the combined method a removal stands when its text is near its twin's as well."""
    found = keep_first_above(unit, thresholds.cosine, protected=reference)
    near = np.full(len(found), np.nan)
    if method == "combined":
        near = jaccard(texts, found.row, found.twin)
        sure = near >= thresholds.jaccard
        found, near = Removals(found.row[sure], found.twin[sure], found.score[sure]), near[sure]
    pairs = Pairs(found.row, found.twin, found.score)
    return Measured(method, thresholds, first, where, pairs, found.score, near, fixed=found)
