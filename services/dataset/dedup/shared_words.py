"""Which evaluation rows a training set gives away: the same text, shared runs of words, or nearly the same vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.dataset.dedup.texts import normalised, text_key, word_runs

# A run of words that stands in more evaluation rows than this is a phrase of the format, not of a row.
_COMMON = 50


@dataclass(frozen=True)
class Match:
    """Evaluation row, training row, and how they are alike; `overlap` is the share of the evaluation row's runs."""

    evaluation: int
    training: int
    method: Literal["exact", "words", "semantic"]
    overlap: float | None
    cosine: float | None = None


def shared_words(training: Sequence[str], evaluation: Sequence[str], size: int, overlap: float) -> list[Match]:
    """For each evaluation text, the training text that holds the greatest share of its runs of `size` words.

    Only shares >= `overlap` (0..1) count; the earliest training text of equals. The same normalised text is `exact`.
    Runs that stand in many evaluation texts are left out of the count, so that a common instruction is no leak.
    """
    runs = [np.unique(word_runs(text, size)) for text in evaluation]
    every = np.concatenate(runs) if runs else np.empty(0, np.uint64)
    known, counts = np.unique(every, return_counts=True)
    known = known[counts <= max(_COMMON, len(evaluation) // 20)] if len(evaluation) > _COMMON else known
    owners = _owners(known, runs)
    sizes = np.array([np.isin(part, known).sum() for part in runs])
    exact = {text_key(normalised(text)): row for row, text in reversed(list(enumerate(training))) if text.strip()}
    best: dict[int, tuple[float, int]] = {}
    for row, text in enumerate(training):
        found = np.unique(word_runs(text, size))
        hits = Counter(owner for run in found[np.isin(found, known)].tolist() for owner in owners[run])
        for owner, count in hits.items():
            share = count / sizes[owner]
            if share >= overlap and share > best.get(owner, (0.0, -1))[0]:
                best[owner] = (share, row)
    matches: list[Match] = []
    for row, text in enumerate(evaluation):
        twin = exact.get(text_key(normalised(text))) if text.strip() else None
        if twin is not None:
            matches.append(Match(row, twin, "exact", 1.0))
        elif row in best:
            matches.append(Match(row, best[row][1], "words", float(best[row][0])))
    return matches


def _owners(known: NDArray[np.uint64], runs: Sequence[NDArray[np.uint64]]) -> dict[int, list[int]]:
    owners: dict[int, list[int]] = {run: [] for run in known.tolist()}
    for row, part in enumerate(runs):
        for run in part.tolist():
            if run in owners:
                owners[run].append(row)
    return owners
