"""The index of this machine: every vector is looked at, in half precision, and the best are scored again in full.

100,000 x 384 takes about 4 ms of one core, any filter is exact, and nothing has to be trained or tuned
(docs/adr/0007-exact-scan.md). The vectors stand in a file that is mapped, not read.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from services.dataset.vectors.index import F32, Hits, Mask, ranked

# Scored again in full precision: half precision moves a cosine by about 1e-4, which these extra rows cover.
_SPARE = 100


class ScanIndex:
    """Mapped float32 files under `folder`, and their half-precision copies in memory up to `held_bytes`."""

    name = "scan"

    def __init__(self, folder: Path, held_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.held_bytes = held_bytes
        self._held: OrderedDict[str, tuple[Any, F32]] = OrderedDict()
        self._lock = threading.Lock()

    async def rows(self, key: str) -> int | None:
        return await asyncio.to_thread(self._rows, key)

    async def rebuild(self, key: str, vectors: F32) -> None:
        await asyncio.to_thread(self._write, key, vectors)

    async def search(self, key: str, query: F32, limit: int, allowed: Mask | None = None) -> Hits:
        return await asyncio.to_thread(self._search, key, query, limit, allowed)

    async def drop(self, key: str) -> None:
        with self._lock:
            self._held.pop(key, None)
        await asyncio.to_thread(self.path(key).unlink, missing_ok=True)

    def path(self, key: str) -> Path:
        """The file of one set: rows x dimension float32, little endian, as a NumPy array file."""
        return self.folder / f"{key}.npy"

    def vectors(self, key: str) -> F32:
        """The mapped vectors [rows, d]. Raises FileNotFoundError when nothing stands under the key."""
        with self._lock:
            if key in self._held:
                return self._held[key][1]
        return self._mapped(key)

    def _mapped(self, key: str) -> F32:
        found: F32 = np.load(self.path(key), mmap_mode="r", allow_pickle=False)
        return found

    def has(self, key: str) -> bool:
        """Whether a whole file stands under the key."""
        try:
            if not self.path(key).exists():
                return False
            self.vectors(key)
        except (FileNotFoundError, ValueError):  # a file cut short is as good as none
            return False
        return True

    def _rows(self, key: str) -> int | None:
        return int(self.vectors(key).any(axis=1).sum()) if self.has(key) else None

    def _write(self, key: str, vectors: F32) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{key}.{os.getpid()}"
        with draft.open("wb") as file:
            np.save(file, np.ascontiguousarray(vectors, dtype=np.float32), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path(key))
        with self._lock:
            self._held.pop(key, None)

    def _search(self, key: str, query: F32, limit: int, allowed: Mask | None) -> Hits:
        index, vectors = self._load(key)
        wanted = min(len(vectors), limit + limit // 10 + _SPARE)
        # OpenMP's threads spin while they wait; one is enough and leaves the other core to the others.
        faiss.omp_set_num_threads(1)
        selected = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selected = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # pyright: ignore[reportCallIssue] — SWIG takes both
        _, found = index.search(query[None].astype(np.float32), wanted, params=selected)
        rows = np.sort(found[0][found[0] >= 0].astype(np.int64))
        near = vectors[rows]
        # Not a product of BLAS, whose second thread costs more than it brings for so few rows.
        scores = np.einsum("ij,j->i", near, query).astype(np.float32)
        present = near.any(axis=1)
        return ranked(rows[present], scores[present], limit)

    def _load(self, key: str) -> tuple[Any, F32]:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            vectors = self._mapped(key)
            index = faiss.IndexScalarQuantizer(
                vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
            for start in range(0, len(vectors), 65_536):
                index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
            self._held[key] = (index, vectors)
            while len(self._held) > 1 and sum(2 * v.size for _, v in self._held.values()) > self.held_bytes:
                self._held.popitem(last=False)
            return self._held[key]
