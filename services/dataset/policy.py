"""Which split a row belongs to, by the hash of its id alone, and what goes into the name of a version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

# Part of every version's hash: a change of the normal form or of the files must not pass for the old version.
SCHEMA_VERSION = 2
TRAIN, TEST = "train", "test"
HOLDOUT_SPLITS = (TEST, TRAIN)


def id_hashes(row_ids: Iterable[str]) -> np.ndarray:
    """SHA-256 of n ids: (n, 32) uint8. Two rows with the same hash have the same id."""
    digests = [hashlib.sha256(b"ltp.split." + row_id.encode()).digest() for row_id in row_ids]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def positions(hashes: np.ndarray) -> np.ndarray:
    """Where each row lies in [0, 1), (n,) float64: uniform over ids, and the same on every machine."""
    weights = 256.0 ** -np.arange(1, 7)
    return hashes[:, :6] @ weights


def positions_of(row_ids: Iterable[str]) -> np.ndarray:
    """`positions` of n ids."""
    return positions(id_hashes(row_ids))


def split_codes(positions: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """(n,) positions -> (n,) index of the split, where `shares` (k,) cut [0, 1) from the left."""
    borders = np.cumsum(shares)[:-1]
    return np.searchsorted(borders, positions, side="right")


def holdout_codes(positions: np.ndarray, holdout: float, lowest: float, highest: float) -> np.ndarray:
    """As `split_codes` for `HOLDOUT_SPLITS`, but no split stays empty: the row nearest the border moves.

    `lowest` and `highest` are the extremes over the whole dataset. A single row is trained on.
    """
    codes = split_codes(positions, (holdout, 1 - holdout))
    if lowest == highest or holdout <= 0:
        return np.ones_like(codes)
    codes[positions == lowest] = 0
    codes[positions == highest] = 1
    return codes
