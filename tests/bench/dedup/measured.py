"""Run one way of deduplicating vectors in a process of its own: `python measured.py ours|semhash|exact VECTORS.npy THRESHOLD`.

Prints one line of JSON: the CPU seconds of the work alone, its wall seconds, and the removed rows. The process runs
with the environment of its peer, so this file imports only what it needs.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main() -> None:
    way, path, threshold = sys.argv[1], sys.argv[2], float(sys.argv[3])
    vectors = np.load(path)
    work = {"ours": _ours, "semhash": _semhash, "exact": _exact}[way](vectors, threshold)
    before, began = _cpu(), time.perf_counter()
    removed = work()
    facts = {"cpu_seconds": _cpu() - before, "wall_seconds": time.perf_counter() - began, "removed": removed}
    facts["peak_mib"] = _peak_mib()
    print(json.dumps(facts))


def _peak_mib() -> float:
    """Of this program alone: `ru_maxrss` would count what its parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ours(vectors: np.ndarray, threshold: float) -> Callable[[], list[int]]:
    from services.dataset.dedup.cosine import pairs_above, unit_vectors
    from services.dataset.dedup.pairs import keep_first

    return lambda: keep_first(pairs_above(unit_vectors(vectors), threshold), len(vectors)).row.tolist()


def _semhash(vectors: np.ndarray, threshold: float) -> Callable[[], list[int]]:
    from semhash import SemHash

    def work() -> list[int]:
        records = [{"text": str(row)} for row in range(len(vectors))]
        made = SemHash.from_embeddings(vectors, records, model=None, columns=["text"])
        return sorted(int(gone.record["text"]) for gone in made.self_deduplicate(threshold=threshold).filtered)

    return work


def _exact(vectors: np.ndarray, threshold: float) -> Callable[[], list[int]]:
    """The definition: each row against all earlier ones, whole products in float32, float64 where they come near."""

    def work() -> list[int]:
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        single = unit.astype(np.float32)
        gone = np.zeros(len(unit), dtype=bool)
        for start in range(0, len(unit), 512):
            near = single[: start + 512] @ single[start : start + 512].T >= threshold - 1e-3
            for column in np.flatnonzero(near.any(axis=0)).tolist():
                row = start + column
                earlier = np.flatnonzero(near[:row, column])
                earlier = earlier[~gone[earlier]]
                gone[row] = len(earlier) > 0 and (unit[earlier] @ unit[row]).max() >= threshold
        return np.flatnonzero(gone).tolist()

    return work


if __name__ == "__main__":
    main()
