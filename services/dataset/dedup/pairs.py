"""Pairs of similar rows, and the one rule that turns them into removals: keep the first, drop what repeats a kept row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


class TooManyPairsError(Exception):
    """More pairs than can be kept: clusters so large that only removals at one threshold can be computed."""


@dataclass(frozen=True)
class Pairs:
    """Similar rows: `later[k]` comes after `earlier[k]`; `score[k]` in [0, 1] is what the method measured."""

    later: Rows
    earlier: Rows
    score: Scores

    def __len__(self) -> int:
        return len(self.later)

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        """The pairs that a mask selects."""
        return Pairs(self.later[mask], self.earlier[mask], self.score[mask])

    @classmethod
    def none(cls) -> Pairs:
        """No pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))

    @classmethod
    def join(cls, parts: list[Pairs]) -> Pairs:
        """All pairs of the parts, one after the other."""
        if not parts:
            return cls.none()
        return cls(
            np.concatenate([p.later for p in parts]),
            np.concatenate([p.earlier for p in parts]),
            np.concatenate([p.score for p in parts]),
        )


@dataclass(frozen=True)
class Removals:
    """What goes: `row[k]` because the kept row `twin[k]` says the same with `score[k]`. Ordered by row."""

    row: Rows
    twin: Rows
    score: Scores

    def __len__(self) -> int:
        return len(self.row)


def keep_first(pairs: Pairs, rows: int) -> Removals:
    """Greedy keep-first over `rows` rows: a row goes when, and only when, it is paired with an earlier row that stays.

    The twin is the kept neighbour with the highest score (the earliest of equals). O(pairs log pairs).
    """
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    later, earlier, score = pairs.later[order].tolist(), pairs.earlier[order].tolist(), pairs.score[order]
    gone = bytearray(rows)
    chosen: list[int] = []
    for index, row in enumerate(later):
        if not gone[row] and not gone[earlier[index]]:
            gone[row] = 1
            chosen.append(index)
    picked = order[np.array(chosen, dtype=np.int64)]
    return Removals(pairs.later[picked], pairs.earlier[picked], score[np.array(chosen, dtype=np.int64)])


def spread(found: Removals, first: Rows, where: Rows) -> Removals:
    """Removals over distinct texts as removals over all rows: copies of a removed text go with it, copies of a kept one go for it.

    `first` and `where` are what `texts.distinct` gives. Exactly what keep-first over all rows would do, since copies
    have the same neighbours.
    """
    twin_of = np.full(len(first), -1, dtype=np.int64)
    score_of = np.ones(len(first), dtype=np.float64)
    twin_of[found.row] = first[found.twin]
    score_of[found.row] = found.score
    rows = np.arange(len(where), dtype=np.int64)
    is_copy = first[where] != rows
    goes = is_copy | (twin_of[where] >= 0)
    row = rows[goes]
    position = where[row]
    stays = twin_of[position] < 0
    return Removals(row, np.where(stays, first[position], twin_of[position]), score_of[position])
