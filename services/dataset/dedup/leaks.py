"""Finds the evaluation rows that training rows give away, by words and by vectors: run by `apart` in a process of its own."""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ltp.contracts.dedup import Leak, LeakAsk, TextPart
from services.dataset.dedup.compared import stacked
from services.dataset.dedup.cosine import F32, pairs_above, unit_vectors
from services.dataset.dedup.shared_words import Match, shared_words
from services.dataset.vectors.rows import Frozen, RowsFile, open_rows

_KEPT = 200
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True)
class Part:
    """Some rows of a version: all of them, or those of some splits. `folder` holds its mapped rows."""

    frozen: Frozen
    folder: Path
    part: TextPart
    splits: list[str] | None

    @cached_property
    def rows(self) -> RowsFile:
        """All rows of the version."""
        return open_rows(self.folder, self.frozen.splits, self.part)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Which of them belong to the part."""
        if self.splits is None:
            return np.arange(len(self.rows), dtype=np.int64)
        mask = np.zeros(len(self.rows), dtype=np.bool_)
        for split in self.splits:
            mask |= pc.equal(self.rows.table.column("split"), split).to_numpy()
        return np.flatnonzero(mask)

    def texts(self) -> list[str]:
        """The part's texts."""
        found: list[str] = self.rows.table.column("text").take(self.places).to_pylist()
        return found


@dataclass(frozen=True)
class FoundLeaks:
    """How many rows were compared and how many leak, with the first of these."""

    rows: int
    evaluation_rows: int
    leaks: int
    first: list[Leak]


def find_leaks(training: Part, evaluation: list[Part], ask: LeakAsk, vectors: list[Path] | None) -> FoundLeaks:
    """Match the evaluation parts with the training part; `vectors` has a file for the training and for each other part."""
    texts = training.texts()
    questions = [text for part in evaluation for text in part.texts()]
    matches = shared_words(texts, questions, ask.words, ask.overlap)
    if vectors is not None:
        parts = zip([training, *evaluation], vectors, strict=True)
        matrix = stacked([np.load(path, mmap_mode="r", allow_pickle=False)[part.places] for part, path in parts])
        assert matrix is not None
        known = {match.evaluation for match in matches}
        matches += [match for match in _near(matrix, len(texts), ask.cosine) if match.evaluation not in known]
    matches.sort(key=lambda match: match.evaluation)
    first = [_leak(training, evaluation, match) for match in matches[:_KEPT]]
    return FoundLeaks(len(texts), len(questions), len(matches), first)


def _near(vectors: F32, training: int, threshold: float) -> list[Match]:
    """For each evaluation row its nearest training row, where that reaches the threshold."""
    unit = unit_vectors(vectors)
    pairs = pairs_above(unit, threshold, protected=training, within=False, max_pairs=50_000_000)
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    later = pairs.later[order]
    rows, first = np.unique(later, return_index=True)
    best = order[first]
    return [
        Match(int(row) - training, int(pairs.earlier[at]), "semantic", None, float(pairs.score[at]))
        for row, at in zip(rows.tolist(), best.tolist(), strict=True)
    ]


def _leak(training: Part, evaluation: list[Part], match: Match) -> Leak:
    starts = np.cumsum([0, *(len(part.places) for part in evaluation)])
    which = int(np.searchsorted(starts, match.evaluation, side="right")) - 1
    part = evaluation[which]
    theirs = int(part.places[match.evaluation - int(starts[which])])
    ours = int(training.places[match.training])
    return Leak(
        evaluation_name=part.frozen.name,
        evaluation_version=part.frozen.version,
        evaluation_split=part.rows.table.column("split")[theirs].as_py(),
        evaluation_row_id=part.rows.table.column("row_id")[theirs].as_py(),
        evaluation_text=(part.rows.table.column("text")[theirs].as_py() or "")[:_SHOWN_CHARACTERS],
        training_row_id=training.rows.table.column("row_id")[ours].as_py(),
        training_text=(training.rows.table.column("text")[ours].as_py() or "")[:_SHOWN_CHARACTERS],
        method=match.method,
        overlap=match.overlap,
        cosine=match.cosine,
    )
