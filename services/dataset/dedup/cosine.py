"""All pairs of vectors whose cosine reaches a floor, exactly, at a fraction of the arithmetic of comparing them whole.

An orthogonal rotation (the principal axes, so that few coordinates carry most of the length) splits each unit vector
into head and tail. By Cauchy-Schwarz, cos(x, y) <= head(x) . head(y) + |tail(x)| |tail(y)|, which is one product of
matrices with one column more than the head has. Only pairs whose bound reaches the floor are computed whole, and those
near the floor in float64, so the answer is that of the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.dedup.pairs import Pairs, Removals, TooManyPairsError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BLOCK = 1024
# Float32 products of unit vectors of up to some thousand dimensions stay well within this of the true value.
_MARGIN = 1e-4
_SAMPLE = 2000
# Measured on one EPYC core: seconds per multiply-add of a product with few columns, per score scanned, per pair verified.
_COST_MADD, _COST_SCAN, _COST_VERIFY = 4e-11, 2e-10, 6e-7

Progress = Callable[[float], None]


@dataclass(frozen=True)
class _Space:
    """Unit vectors [n, d] and, padded to whole blocks, their heads with the tail's length as last column."""

    unit: F32
    head: F32


def unit_vectors(vectors: NDArray[np.floating]) -> F32:
    """Vectors scaled to length 1, float32 [n, d]; zero vectors stay zero and are similar to nothing.

    Raises LtpError VECTORS_INVALID: not a matrix, or a value that is NaN or infinite (with its row).
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        shape = "x".join(map(str, vectors.shape))
        raise LtpError(ErrorCode.VECTORS_INVALID, f"Vectors of shape {shape} are no rows of numbers.", "Embed again.")
    unit = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), 8192):
        part = vectors[start : start + 8192].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(bad):
            row = start + int(bad[0]) + 1
            raise LtpError(
                ErrorCode.VECTORS_INVALID, f"The vector of row {row} holds NaN or infinity.", "Embed that row again."
            )
        length = np.linalg.norm(part, axis=1, keepdims=True)
        unit[start : start + 8192] = part / np.where(length > 0, length, 1.0)
    return unit


def pairs_above(
    vectors: F32,
    floor: float,
    *,
    protected: int = 0,
    within: bool = True,
    max_pairs: int = 5_000_000,
    progress: Progress | None = None,
) -> Pairs:
    """Every pair (later, earlier) of unit vectors [n, d] with cosine >= `floor` (0 < floor <= 1), scores in float64.

    The first `protected` rows are a reference: pairs among them are not looked for. `within=False` also leaves out
    pairs among the others. Raises TooManyPairsError past `max_pairs`. Memory: the vectors twice, and the pairs.
    """
    space = _space(vectors, floor)
    found: list[Pairs] = []
    count = 0
    starts = range(protected - protected % BLOCK, len(vectors), BLOCK)
    for done, start in enumerate(starts):
        for part in _row_block(space, start, start + BLOCK if within else protected, floor):
            keep = part.later >= protected
            if not within:
                keep &= part.earlier < protected
            found.append(part.where(keep))
            count += len(found[-1])
            if count > max_pairs:
                raise TooManyPairsError
        if progress is not None:
            progress((done + 1) / len(starts))
    return Pairs.join(found)


def keep_first_above(
    vectors: F32, threshold: float, *, protected: int = 0, progress: Progress | None = None
) -> Removals:
    """What `keep_first(pairs_above(...))` gives, comparing only with rows that stay: for clusters with too many pairs.

    The twin is the earliest kept neighbour of the block in which one was found first.
    """
    space = _space(vectors, threshold)
    gone = np.zeros(len(vectors), dtype=np.bool_)
    found: list[Pairs] = []
    starts = range(protected - protected % BLOCK, len(vectors), BLOCK)
    for done, start in enumerate(starts):
        rows = np.arange(max(start, protected), min(start + BLOCK, len(vectors)))
        for column in range(0, start, BLOCK):
            rows = rows[~gone[rows]]
            columns = np.arange(column, column + BLOCK)
            columns = columns[~gone[columns]]
            best = _first_of_each(_between(space, rows, columns, threshold))
            gone[best.later] = True
            found.append(best)
        found.append(_greedy_inside(space, start, gone, threshold, protected))
        if progress is not None:
            progress((done + 1) / len(starts))
    pairs = Pairs.join(found)
    order = np.argsort(pairs.later, kind="stable")
    return Removals(pairs.later[order], pairs.earlier[order], pairs.score[order])


def _greedy_inside(space: _Space, start: int, gone: NDArray[np.bool_], threshold: float, protected: int) -> Pairs:
    """Keep-first within one block, row by row; marks in `gone` what it removes."""
    rows = np.arange(start, min(start + BLOCK, len(gone)))
    rows = rows[~gone[rows]]
    unit = space.unit[rows].astype(np.float64)
    later: list[int] = []
    earlier: list[int] = []
    scores: list[float] = []
    for index in range(1, len(rows)):
        if rows[index] < protected:
            continue
        against = unit[:index] @ unit[index]
        against[gone[rows[:index]]] = -1.0
        twin = int(against.argmax())
        if against[twin] >= threshold:
            gone[rows[index]] = True
            later.append(int(rows[index]))
            earlier.append(int(rows[twin]))
            scores.append(min(1.0, float(against[twin])))
    return Pairs(np.array(later, np.int64), np.array(earlier, np.int64), np.array(scores, np.float64))


def _first_of_each(pairs: Pairs) -> Pairs:
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    _, first = np.unique(pairs.later[order], return_index=True)
    return Pairs(pairs.later[order][first], pairs.earlier[order][first], pairs.score[order][first])


def _space(unit: F32, floor: float) -> _Space:
    """Rotate onto the principal axes of a sample and cut where the whole work is least."""
    if not 0 < floor <= 1:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"A cosine threshold of {floor:g} is not in (0, 1].", "Give one like 0.9."
        )
    rows, size = unit.shape
    step = max(1, rows // 20_000)
    sample = unit[::step].astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = axes[:, ::-1].astype(np.float32)
    columns = _head_columns(unit[:: max(1, rows // _SAMPLE)][:_SAMPLE] @ axes, rows, floor)
    padded = -(-rows // BLOCK) * BLOCK
    head = np.zeros((padded, min(columns + 1, size)), dtype=np.float32)
    for start in range(0, rows, 8192):
        turned = unit[start : start + 8192] @ axes
        part = head[start : start + len(turned)]
        part[:, :columns] = turned[:, :columns]
        if columns < size:
            part[:, columns] = np.linalg.norm(turned[:, columns:], axis=1)
    return _Space(unit, head)


def _head_columns(sample: F32, rows: int, floor: float) -> int:
    """How many coordinates the first product takes: few cost less there and let more pairs through to the second."""
    size = sample.shape[1]
    pairs = rows * rows / 2
    cheapest, choice = pairs * (size * _COST_MADD * 0.65), size
    for columns in (24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320):
        if columns >= size:
            break
        tail = np.linalg.norm(sample[:, columns:], axis=1)
        bound = sample[:, :columns] @ sample[:, :columns].T + np.outer(tail, tail)
        through = (np.count_nonzero(bound >= floor - _MARGIN) - len(sample)) / max(1, bound.size - len(sample))
        cost = pairs * ((columns + 1) * _COST_MADD + through * _COST_VERIFY)
        if cost < cheapest:
            cheapest, choice = cost, columns
    return choice


def _row_block(space: _Space, start: int, limit: int, floor: float) -> Iterator[Pairs]:
    """Pairs of the rows of one block with all columns below `limit`, earlier < later."""
    rows = space.head[start : start + BLOCK]
    product = np.empty((BLOCK, BLOCK), dtype=np.float32)
    for column in range(0, min(limit, start + BLOCK), BLOCK):
        np.matmul(rows, space.head[column : column + BLOCK].T, out=product)
        later, earlier = _hits(product, floor)
        later, earlier = later + start, earlier + column
        if column == start:
            below = earlier < later
            later, earlier = later[below], earlier[below]
        yield _verified(space.unit, later, earlier, floor)


def _between(space: _Space, rows: NDArray[np.int64], columns: NDArray[np.int64], floor: float) -> Pairs:
    if len(rows) == 0 or len(columns) == 0:
        return Pairs.none()
    later, earlier = np.nonzero(space.head[rows] @ space.head[columns].T >= floor - _MARGIN)
    return _verified(space.unit, rows[later], columns[earlier], floor)


def _hits(product: F32, floor: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the scores that reach the floor; eight at a time are passed over, since nearly all are below it."""
    above = product >= np.float32(floor - _MARGIN)
    words = np.flatnonzero(above.view(np.uint64))
    word, bit = np.nonzero(above.reshape(-1, 8)[words])
    flat = words[word] * 8 + bit
    return flat // product.shape[1], flat % product.shape[1]


def _verified(unit: F32, later: NDArray[np.int64], earlier: NDArray[np.int64], floor: float) -> Pairs:
    """The candidates whose cosine, in float64 where float32 leaves doubt, reaches the floor."""
    kept: list[Pairs] = []
    for start in range(0, len(later), 16_384):
        a, b = later[start : start + 16_384], earlier[start : start + 16_384]
        near = np.einsum("ij,ij->i", unit[a], unit[b]) >= floor - _MARGIN
        a, b = a[near], b[near]
        exact = np.einsum("ij,ij->i", unit[a].astype(np.float64), unit[b].astype(np.float64))
        sure = exact >= floor
        kept.append(Pairs(a[sure], b[sure], np.minimum(exact[sure], 1.0)))
    return Pairs.join(kept)
