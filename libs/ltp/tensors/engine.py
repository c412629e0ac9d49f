"""Carries out a plan: reads pieces, merges them, checks them and writes them to their places, on every core.

Memory is a few pieces for each thread, whatever the model's size. What is written does not depend on the number of threads,
on their order, or on how often the work was interrupted.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event, local
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.journal import Journal
from ltp.tensors.layout import Shard
from ltp.tensors.methods import merge_of
from ltp.tensors.methods.inputs import Settings, as_array
from ltp.tensors.model_files import WIDTH
from ltp.tensors.numbers import F32, Bytes, encode, fits, rounded
from ltp.tensors.operation import JOURNAL, Stopped
from ltp.tensors.plan import Model, Step
from ltp.tensors.readers import Bench, Files, StepInputs, load_change

if TYPE_CHECKING:
    from torch import Tensor

_TELL_SECONDS = 0.5
# glibc's numbers for mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


@dataclass(frozen=True)
class Progress:
    """How far the writing is, and when it will be done at the pace so far."""

    done_bytes: int
    total_bytes: int
    elapsed_seconds: float
    eta_seconds: float | None
    # The most that was taken of a GPU at one time, without its context.
    device_bytes: int | None = None


def _keep_memory() -> None:
    """Let the allocator keep what it was given: pieces come and go, and fresh pages cost more than the arithmetic on them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 256 << 20), (_TOP_PAD, 8 << 20)):
            mallopt(option, value)


def threads() -> int:
    """One for each processor that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def _one_thread_each() -> None:
    """Threads share the work by weights; torch's own, where a method or an adapter needs it, would fight with them for the cores.

    Said in every thread: torch tells a new one only at its first loop, and a dot product before that would be split over the
    cores, which shows in its last bits.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


class Engine:
    """One merge into one directory of shards, computed by the processor."""

    on_device: ClassVar[bool] = False

    def __init__(
        self,
        method: str,
        models: Sequence[Model],
        steps: Sequence[Step],
        shards: Sequence[Shard],
        *,
        seed: int,
        digest: str,
        workers: int | None = None,
    ) -> None:
        self._merge = merge_of(method, on_device=self.on_device)
        self._models, self._steps, self._shards = models, steps, shards
        self._seed, self._digest, self._workers = seed, digest, workers or threads()
        self._places = {name: (shard.file, offset) for shard in shards for name, offset in shard.offsets.items()}
        self._files, self._local = Files(), local()
        self._descriptors: dict[str, int] = {}
        self._done = 0

    def run(self, directory: Path, stop: Event, tell: Callable[[Progress], None]) -> None:
        """Write the shards into `directory`, going on where its journal ends.

        Raises Stopped, or LtpError: MERGE_FAILED (not finite), MODEL_UNREADABLE (a file changed), DISK_FULL.
        """
        if any(model.adapter is not None for model in self._models):
            load_change()
        _keep_memory()
        with ExitStack() as stack:
            stack.callback(self._files.close)
            for shard in self._shards:
                self._descriptors[shard.file] = _laid(directory / shard.file, shard, stack)
            journal = stack.enter_context(Journal(directory / JOURNAL, self._digest))
            todo = [step for step in self._steps if step.target.name not in journal.done]
            self._done = sum(step.target.size for step in self._steps) - sum(step.target.size for step in todo)
            self._work(todo, journal, stop, tell)

    def _work(self, todo: list[Step], journal: Journal, stop: Event, tell: Callable[[Progress], None]) -> None:
        # The largest first, so that no thread is left alone with one at the end.
        todo.sort(key=lambda step: -step.target.size)
        before, began = self._done, monotonic()
        total = before + sum(step.target.size for step in todo)
        with ThreadPoolExecutor(self._workers, "merge", _one_thread_each) as pool:
            pending = {pool.submit(self._one, step, journal, stop) for step in todo}
            try:
                while pending:
                    finished, pending = wait(pending, _TELL_SECONDS, FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    tell(self._progress(total, before, monotonic() - began))
            except BaseException:
                stop.set()
                for future in pending:
                    future.cancel()
                raise
        if stop.is_set():
            raise Stopped

    def _one(self, step: Step, journal: Journal, stop: Event) -> None:
        self._carry(step, StepInputs(step, self._models, self._bench(), self._seed), journal, stop)

    def _carry(self, step: Step, inputs: StepInputs, journal: Journal, stop: Event) -> None:
        """Merge a weight and write it, piece by piece."""
        merged = self._merge(inputs, Settings(step.shared, [origin.parameters for origin in step.origins]))
        file, offset = self._places[step.target.name]
        width = WIDTH[step.target.dtype]
        for start, end in inputs.pieces():
            if stop.is_set():
                return
            if not self._put(
                merged(start, end), inputs, step.target.dtype, self._descriptors[file], offset + start * width
            ):
                raise _not_finite(step, inputs, start, end)
            # An int's += is not atomic, and progress need not be.
            self._done += (end - start) * width
        journal.note(step.target.name)

    def _put(self, merged: Tensor | F32, inputs: StepInputs, dtype: str, descriptor: int, place: int) -> bool:
        """Write a merged piece in its type; False, and nothing written, when that cannot hold it. `merged` is used up."""
        values = as_array(merged)
        if inputs.dtype != dtype:
            # Rounding to the type of the merge first shows only where the result's type is another one.
            rounded(values, inputs.dtype)
        if not fits(values, dtype):
            return False
        write_at(descriptor, encode(values, dtype), place)
        return True

    def _progress(self, total: int, before: int, seconds: float) -> Progress:
        done = min(self._done, total)
        pace = (done - before) / seconds if seconds > 0 else 0.0
        return Progress(done, total, seconds, max(0, total - done) / pace if pace else None)

    def _bench(self) -> Bench:
        bench: Bench | None = getattr(self._local, "bench", None)
        if bench is None:
            bench = self._local.bench = Bench(self._files)
        return bench


def _laid(path: Path, shard: Shard, stack: ExitStack) -> int:
    """The file at its full length with its header in it; a file from before is kept."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    stack.callback(os.close, descriptor)
    # Reserves the space, so that a full disk shows now and not in the middle.
    os.posix_fallocate(descriptor, 0, shard.size)
    os.pwrite(descriptor, shard.header, 0)
    return descriptor


def write_at(descriptor: int, values: Bytes, offset: int) -> None:
    """Write bytes at their place in a file."""
    view, done = values.data, 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _not_finite(step: Step, inputs: StepInputs, start: int, stop: int) -> LtpError:
    """Says whose fault a NaN is: an input's, or the merge's own (a type too narrow)."""
    for index, origin in enumerate(step.origins):
        values = inputs.values(index, start, stop)
        if not np.isfinite(values).all():
            place = start + int(np.flatnonzero(~np.isfinite(values))[0])
            return LtpError(
                ErrorCode.MERGE_FAILED,
                f"{origin.stored.name} in {origin.stored.file} holds {float(values[place - start])} at element {place}.",
                "That model diverged or is damaged: leave it out. Nothing was written to the output.",
            )
    return LtpError(
        ErrorCode.MERGE_FAILED,
        f"{step.target.name} would hold NaN or infinity in {step.target.dtype}, though every input is finite.",
        "Try out_dtype: float32 or bfloat16, or smaller weights. Nothing was written to the output.",
    )
