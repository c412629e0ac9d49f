"""Pieces of a model's weights as float32, out of files, adapters and aligned vocabularies, into buffers that are used again.

Every thread has a Bench of buffers, one pair for each model, so that memory does not grow with the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from ltp.tensors.adapters import LowRank
from ltp.tensors.methods.inputs import PIECE, Inputs
from ltp.tensors.model_files import WIDTH, Stored, unreadable
from ltp.tensors.numbers import F32, decode, rounded
from ltp.tensors.plan import Model, Step
from ltp.tensors.vocabulary import Rows


class Files:
    """Open files by path, shared by all threads: `pread` needs no position."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def descriptor(self, path: Path) -> int:
        """The file's descriptor, opened at first use."""
        with self._lock:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY)
            return self._open[path]

    def read(self, stored: Stored, place: int, into: memoryview) -> None:
        """Fill `into` with a tensor's bytes from `place` on. Raises MODEL_UNREADABLE when the file ends before them."""
        descriptor, done = self.descriptor(stored.file), 0
        while done < len(into):
            count = os.preadv(descriptor, [into[done:]], stored.offset + place + done)
            if count == 0:
                raise unreadable(f"{stored.file} ended while {stored.name} was read.", "Was it changed meanwhile?")
            done += count

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class Bench:
    """The buffers of one thread: raw bytes, and float32 values for each input."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._raw = np.empty(PIECE * 4, np.uint8)
        self._values: list[F32] = []

    def values(self, index: int, count: int) -> F32:
        """The float32 buffer of an input."""
        while len(self._values) <= index:
            self._values.append(np.empty(PIECE, np.float32))
        if self._values[index].size < count:
            self._values[index] = np.empty(count, np.float32)
        return self._values[index][:count]

    def load(self, stored: Stored, start: int, stop: int, into: F32) -> None:
        """Read elements of a tensor as float32. Raises MODEL_UNREADABLE when the file ends before them."""
        width = WIDTH[stored.dtype]
        size = (stop - start) * width
        if self._raw.size < size:
            self._raw = np.empty(size, np.uint8)
        self.files.read(stored, start * width, self._raw.data[:size])
        decode(self._raw[:size], stored.dtype, into)


class Reader(Protocol):
    """Gives pieces of one model's weight."""

    def read(self, bench: Bench, start: int, stop: int, into: F32) -> None:
        """Fill `into` with elements `start` to `stop`."""


class Plain:
    """A weight as it lies in its file."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def read(self, bench: Bench, start: int, stop: int, into: F32) -> None:
        """Fill `into` with elements `start` to `stop`."""
        bench.load(self.stored, start, stop, into)


class Adapted:
    """A weight with its LoRA change: W + scale * B @ A, in float32, rounded to the weight's type as a saved merge would be."""

    def __init__(self, stored: Stored, change: LowRank, bench: Bench) -> None:
        self._stored, self._change, self._add = stored, change, load_change()
        self._a, self._b = whole(bench, change.a), whole(bench, change.b)

    def read(self, bench: Bench, start: int, stop: int, into: F32) -> None:
        """Fill `into`; pieces are whole rows, but for rows that a vocabulary takes one at a time they may be any."""
        width = self._stored.shape[1]
        bench.load(self._stored, start, stop, into)
        self._add(into, self._b[start // width : stop // width], self._a, self._change.scale)
        rounded(into, self._stored.dtype)


def load_change() -> Callable[[F32, F32, F32, float], None]:
    """`low_rank.add_change`, for which torch is loaded: a merge without adapters may need none."""
    found: Callable[[F32, F32, F32, float], None] = import_module("ltp.tensors.low_rank").add_change
    return found


def whole(bench: Bench, stored: Stored) -> F32:
    """A small tensor as a whole, in float32."""
    values = np.empty(stored.elements, np.float32)
    bench.load(stored, 0, stored.elements, values)
    return values.reshape(stored.shape)


class Aligned:
    """An embedding with its rows in the order of another vocabulary."""

    def __init__(self, place: int, rows: dict[int, Rows], readers: dict[int, Reader], width: int, bench: Bench) -> None:
        self._rows, self._reader, self._readers, self._width = rows[place], readers[place], readers, width
        self._padding: F32 | None = None
        if len(self._rows.own) > self._rows.tokens:
            self._padding = self._mean(bench)

    def read(self, bench: Bench, start: int, stop: int, into: F32) -> None:
        """Fill `into`, run of consecutive rows by run."""
        first, last = start // self._width, stop // self._width
        table = into.reshape(-1, self._width)
        row = first
        while row < last:
            own = self._rows.own[row]
            end = row + 1
            if row >= self._rows.tokens:
                assert self._padding is not None
                table[row - first] = self._padding
            elif own < 0:
                table[row - first] = self._borrowed(bench, row)
            else:
                while end < last and end < self._rows.tokens and self._rows.own[end] == own + end - row:
                    end += 1
                target = into[(row - first) * self._width : (end - first) * self._width]
                self._reader.read(bench, own * self._width, (own + end - row) * self._width, target)
            row = end

    def _borrowed(self, bench: Bench, row: int) -> F32:
        total, one = np.zeros(self._width, np.float32), np.empty(self._width, np.float32)
        lent = self._rows.lent.get(row, [])
        for model, place in lent:
            self._readers[model].read(bench, place * self._width, (place + 1) * self._width, one)
            total += one
        return total / np.float32(max(1, len(lent)))

    def _mean(self, bench: Bench) -> F32:
        total = np.zeros(self._width, np.float64)
        step = max(1, PIECE // self._width)
        for first in range(0, self._rows.tokens, step):
            last = min(first + step, self._rows.tokens)
            piece = np.empty((last - first) * self._width, np.float32)
            self.read(bench, first * self._width, last * self._width, piece)
            total += piece.reshape(-1, self._width).sum(0, dtype=np.float64)
        return (total / self._rows.tokens).astype(np.float32)


class StepInputs(Inputs):
    """The inputs of one step of a plan, read through a thread's bench."""

    def __init__(self, step: Step, models: Sequence[Model], bench: Bench, seed: int) -> None:
        self.name, self.shape, self.count = step.target.name, step.target.shape, len(step.origins)
        self.base, self.dtype, self.seed = step.base, step.dtype, seed
        self._bench = bench
        self._readers = _readers(step, models, bench)
        # A source of a finer type than the merge's is rounded when read.
        self._rounds = [step.dtype not in {origin.stored.dtype, "F32"} for origin in step.origins]

    def values(self, index: int, start: int, stop: int) -> F32:
        """Elements `start` to `stop` of a model; overwritten by the next look at it."""
        values = self._bench.values(index, stop - start)
        self._readers[index].read(self._bench, start, stop, values)
        return rounded(values, self.dtype) if self._rounds[index] else values


def _readers(step: Step, models: Sequence[Model], bench: Bench) -> list[Reader]:
    plain: dict[int, Reader] = {}
    for origin in step.origins:
        adapter = models[origin.model].adapter
        change = adapter.changes.get(origin.stored.name) if adapter else None
        plain[origin.model] = Adapted(origin.stored, change, bench) if change else Plain(origin.stored)
    if step.rows is None:
        return [plain[origin.model] for origin in step.origins]
    width = step.target.shape[-1]
    return [Aligned(origin.model, step.rows, plain, width, bench) for origin in step.origins]
