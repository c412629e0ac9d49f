"""What every vector index can do. The truth is in Postgres; an index is rebuilt whole, and may be lost at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Hits:
    """Rows by falling score (cosine); equal scores by row."""

    row: NDArray[np.int64]
    score: NDArray[np.float32]


class VectorIndex(Protocol):
    """Nearest rows by cosine. `key` names one set of unit vectors [rows, d]; a row is its place in that set."""

    name: str

    async def rows(self, key: str) -> int | None:
        """How many rows are indexed under `key`; None when nothing, or not all of it, is there."""
        ...

    async def rebuild(self, key: str, vectors: F32) -> None:
        """Index these vectors under `key` in place of whatever was there. Zero vectors are never found."""
        ...

    async def search(self, key: str, query: F32, limit: int, allowed: Mask | None = None) -> Hits:
        """The `limit` rows nearest to a unit vector [d], among `allowed` where given."""
        ...

    async def drop(self, key: str) -> None:
        """Forget `key`; nothing happens when it is not there."""
        ...


def ranked(rows: NDArray[np.int64], scores: F32, limit: int) -> Hits:
    """The best `limit` of some rows in the one order all indexes share."""
    order = np.lexsort((rows, -scores))[:limit]
    return Hits(rows[order], scores[order])
