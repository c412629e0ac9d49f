"""The engine on a device: pieces are moved there as they lie in their files, and decoded, merged, checked and encoded there.

Several threads, each with a stream of its own, bring pieces and take results, so that reading, copying, computing and writing
go on at the same time. Where a device has too little memory, a weight is merged again in smaller pieces, down to the
processor's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import torch
from torch import Tensor

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.accelerator import Accelerator
from ltp.tensors.device_bench import DTYPES, DeviceBench
from ltp.tensors.engine import Engine, Progress, write_at
from ltp.tensors.journal import Journal
from ltp.tensors.layout import Shard
from ltp.tensors.methods import looks_twice
from ltp.tensors.methods.inputs import PIECE
from ltp.tensors.numbers import OVERFLOWS
from ltp.tensors.plan import Model, Step
from ltp.tensors.readers import Plain, StepInputs
from ltp.tensors.sharing import Sharing

# Bytes of a weight that stay on the device between two passes over it, for an element of a piece.
_KEPT = 16


class DeviceInputs(StepInputs):
    """The inputs of one step, read onto a device."""

    def __init__(
        self, step: Step, models: Sequence[Model], bench: DeviceBench, seed: int, piece: int, *, keep: bool
    ) -> None:
        super().__init__(step, models, bench.host, seed)
        self.piece, self._desk = piece, bench
        self._room = piece * _KEPT if keep else 0
        self._raw: dict[tuple[int, int], Tensor] = {}

    def read(self, index: int, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of a model on the device, flat float32."""
        reader = self._readers[index]
        if not isinstance(reader, Plain):
            return self._prepared(index, start, stop)
        raw = self._raw.get((index, start))
        if raw is None:
            raw = self._desk.load(reader.stored, start, stop)
            self._keep(index, start, raw)
        values = raw.view(DTYPES[reader.stored.dtype]).to(torch.float32, copy=True)
        return self.round(values) if self._rounds[index] else values

    def _keep(self, index: int, start: int, raw: Tensor) -> None:
        if raw.numel() <= self._room:
            self._room -= raw.numel()
            self._raw[index, start] = raw

    def _prepared(self, index: int, start: int, stop: int) -> Tensor:
        """What the processor makes of an adapter or another vocabulary, in its own pieces: their size shows in the last bits."""
        result = torch.empty(stop - start, dtype=torch.float32, device=self._desk.device)
        size = max(1, PIECE // self.row) * self.row
        for first in range(start, stop, size):
            last = min(first + size, stop)
            result[first - start : last - start] = self._desk.move(self.values(index, first, last))
        return result


class DeviceEngine(Engine):
    """One merge into one directory of shards, computed on a device."""

    on_device = True

    def __init__(
        self,
        accelerator: Accelerator,
        method: str,
        models: Sequence[Model],
        steps: Sequence[Step],
        shards: Sequence[Shard],
        *,
        seed: int,
        digest: str,
    ) -> None:
        super().__init__(method, models, steps, shards, seed=seed, digest=digest, workers=accelerator.workers)
        self._accelerator, self._keep = accelerator, looks_twice(method)
        # What has too little memory tries again alone, and what comes after it takes less.
        self._piece, self._sharing = accelerator.piece, Sharing()

    def _one(self, step: Step, journal: Journal, stop: Event) -> None:
        with self._sharing.together():
            piece = self._piece
            if self._fitted(step, journal, stop, piece):
                return
        with self._sharing.alone():
            while piece > PIECE:
                piece = max(PIECE, piece // 2)
                self._piece = min(self._piece, piece)
                if self._fitted(step, journal, stop, piece):
                    return
        raise _too_small(step, self._accelerator)

    def _fitted(self, step: Step, journal: Journal, stop: Event, piece: int) -> bool:
        """Merge a weight in such pieces; False where the device has too little memory for them."""
        before = self._done
        try:
            bench = self._device_bench()
            with bench.working():
                inputs = DeviceInputs(step, self._models, bench, self._seed, piece, keep=self._keep)
                self._carry(step, inputs, journal, stop)
            return True
        except torch.OutOfMemoryError:
            self._done = min(self._done, before)
        except RuntimeError as error:
            if not self._accelerator.is_gpu:
                raise
            raise _failed(step, error) from error
        # Outside the handler, whose error holds what was on the device.
        if self._accelerator.is_gpu:
            torch.cuda.empty_cache()
        return False

    def _put(self, merged: Any, inputs: StepInputs, dtype: str, descriptor: int, place: int) -> bool:
        values: Tensor = merged.contiguous()
        if inputs.dtype != dtype:
            inputs.round(values)
        # The largest of what holds a NaN is one, and that is smaller than nothing.
        largest = values.abs().amax()
        encoded = values.to(DTYPES[dtype])
        if not bool(largest < float(OVERFLOWS[dtype])):
            return False
        for at, part in self._device_bench().back(encoded):
            write_at(descriptor, part, place + at)
        return True

    def _progress(self, total: int, before: int, seconds: float) -> Progress:
        return replace(super()._progress(total, before, seconds), device_bytes=self._accelerator.peak_bytes())

    def _device_bench(self) -> DeviceBench:
        bench: DeviceBench | None = getattr(self._local, "device_bench", None)
        if bench is None:
            bench = self._local.device_bench = DeviceBench(self._accelerator, self._files)
        return bench


def _too_small(step: Step, accelerator: Accelerator) -> LtpError:
    return LtpError(
        ErrorCode.DEVICE_OUT_OF_MEMORY,
        f"{accelerator.device} has no room for pieces of {PIECE:,} elements of {step.target.name}.",
        "Others hold its memory (`nvidia-smi` lists them): end them, take another GPU, or leave `device` out: cpu.",
    )


def _failed(step: Step, error: RuntimeError) -> LtpError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return LtpError(
        ErrorCode.DEVICE_FAILED,
        f"The GPU failed at {step.target.name}: {said}"[:500],
        "`nvidia-smi` and the kernel's log say whether it is sound. The same merge runs without `device` on the processor.",
    )
