"""Pieces of a model's weights as float32, out of files, adapters and aligned vocabularies, into buffers that are used again.

Every thread has a Bench of buffers, one pair for each model, so that memory does not grow with the model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from ltp.tensors.adapters import LowRank
from ltp.tensors.methods.inputs import PIECE, Inputs
from ltp.tensors.model_files import WIDTH, Stored, unreadable
from ltp.tensors.plan import Model, Step
from ltp.tensors.vocabulary import Rows

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class Bench:
    """The buffers of one thread: raw bytes, and float32 values for each input."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._raw = torch.empty(PIECE * 4, dtype=torch.uint8)
        self._bytes = self._raw.numpy().data
        self._values: list[Tensor] = []

    def values(self, index: int, count: int) -> Tensor:
        """The float32 buffer of an input."""
        while len(self._values) <= index:
            self._values.append(torch.empty(PIECE))
        if self._values[index].numel() < count:
            self._values[index] = torch.empty(count)
        return self._values[index][:count]

    def load(self, stored: Stored, start: int, stop: int, into: Tensor) -> None:
        """Read elements of a tensor as float32. Raises MODEL_UNREADABLE when the file ends before them."""
        width = WIDTH[stored.dtype]
        size = (stop - start) * width
        if self._raw.numel() < size:
            self._raw = torch.empty(size, dtype=torch.uint8)
            self._bytes = self._raw.numpy().data
        descriptor, place, done = self.files.descriptor(stored.file), stored.offset + start * width, 0
        while done < size:
            count = os.preadv(descriptor, [self._bytes[done:size]], place + done)
            if count == 0:
                raise unreadable(f"{stored.file} ended while {stored.name} was read.", "Was it changed meanwhile?")
            done += count
        into.copy_(self._raw[:size].view(DTYPES[stored.dtype]))


class Reader(Protocol):
    """Gives pieces of one model's weight."""

    def read(self, bench: Bench, start: int, stop: int, into: Tensor) -> None:
        """Fill `into` with elements `start` to `stop`."""


class Plain:
    """A weight as it lies in its file."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def read(self, bench: Bench, start: int, stop: int, into: Tensor) -> None:
        """Fill `into` with elements `start` to `stop`."""
        bench.load(self._stored, start, stop, into)


class Adapted:
    """A weight with its LoRA change: W + scale * B @ A, in float32, rounded to the weight's type as a saved merge would be."""

    def __init__(self, stored: Stored, change: LowRank, bench: Bench) -> None:
        self._stored, self._change = stored, change
        self._a, self._b = whole(bench, change.a), whole(bench, change.b)

    def read(self, bench: Bench, start: int, stop: int, into: Tensor) -> None:
        """Fill `into`; pieces are whole rows, but for rows that a vocabulary takes one at a time they may be any."""
        width = self._stored.shape[1]
        bench.load(self._stored, start, stop, into)
        into.view(-1, width).addmm_(self._b[start // width : stop // width], self._a, alpha=self._change.scale)
        if self._stored.dtype != "F32":
            into.copy_(into.to(DTYPES[self._stored.dtype]))


def whole(bench: Bench, stored: Stored) -> Tensor:
    """A small tensor as a whole, in float32."""
    values = torch.empty(stored.elements)
    bench.load(stored, 0, stored.elements, values)
    return values.view(stored.shape)


class Aligned:
    """An embedding with its rows in the order of another vocabulary."""

    def __init__(self, place: int, rows: dict[int, Rows], readers: dict[int, Reader], width: int, bench: Bench) -> None:
        self._rows, self._reader, self._readers, self._width = rows[place], readers[place], readers, width
        self._padding: Tensor | None = None
        if len(self._rows.own) > self._rows.tokens:
            self._padding = self._mean(bench)

    def read(self, bench: Bench, start: int, stop: int, into: Tensor) -> None:
        """Fill `into`, run of consecutive rows by run."""
        first, last = start // self._width, stop // self._width
        table = into.view(-1, self._width)
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

    def _borrowed(self, bench: Bench, row: int) -> Tensor:
        total, one = torch.zeros(self._width), torch.empty(self._width)
        lent = self._rows.lent.get(row, [])
        for model, place in lent:
            self._readers[model].read(bench, place * self._width, (place + 1) * self._width, one)
            total += one
        return total / max(1, len(lent))

    def _mean(self, bench: Bench) -> Tensor:
        total = torch.zeros(self._width, dtype=torch.float64)
        step = max(1, PIECE // self._width)
        for first in range(0, self._rows.tokens, step):
            last = min(first + step, self._rows.tokens)
            piece = torch.empty((last - first) * self._width)
            self.read(bench, first * self._width, last * self._width, piece)
            total += piece.view(-1, self._width).double().sum(0)
        return (total / self._rows.tokens).float()


class StepInputs(Inputs):
    """The inputs of one step of a plan, read through a thread's bench."""

    def __init__(self, step: Step, models: Sequence[Model], bench: Bench, seed: int) -> None:
        self.name, self.shape, self.count = step.target.name, step.target.shape, len(step.origins)
        self.base, self.dtype, self.seed = step.base, DTYPES[step.dtype], seed
        self._bench = bench
        self._readers = _readers(step, models, bench)
        # A source of a finer type than the merge's is rounded when read.
        self._rounds = [step.dtype not in {origin.stored.dtype, "F32"} for origin in step.origins]

    def read(self, index: int, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of a model; overwritten by the next read of it."""
        values = self._bench.values(index, stop - start)
        self._readers[index].read(self._bench, start, stop, values)
        return self.round(values) if self._rounds[index] else values


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
