"""Moves bytes between files and a device through a few small buffers of pinned memory, whatever the size of what is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ltp.tensors.accelerator import Accelerator
from ltp.tensors.model_files import WIDTH, Stored
from ltp.tensors.numbers import F32, Bytes
from ltp.tensors.readers import Bench, Files

_STAGE_BYTES = 8 << 20
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class _Stage:
    """A buffer that a device copies from or to by itself, and the moment at which it has done so."""

    def __init__(self, *, pinned: bool) -> None:
        self.memory = torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=pinned)
        self.bytes: Bytes = self.memory.numpy()
        self._copied = torch.cuda.Event() if pinned else None

    def mark(self) -> None:
        """What was asked of the device so far is what `wait` waits for."""
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> None:
        """Return when the buffer may be used again."""
        if self._copied is not None:
            self._copied.synchronize()


class DeviceBench:
    """What one thread has to feed a device: its stream there, its buffers, and the bench for what is read on the host."""

    def __init__(self, accelerator: Accelerator, files: Files) -> None:
        self.host, self.device = Bench(files), accelerator.device
        pinned = accelerator.is_gpu
        self._stream = torch.cuda.Stream(self.device) if pinned else None
        # Two, so that one is filled while the other is copied.
        self._stages = [_Stage(pinned=pinned) for _ in range(2)]
        self._turn = 0

    def working(self) -> AbstractContextManager[object]:
        """Within it, what torch is asked for runs in this thread's stream."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def load(self, stored: Stored, start: int, stop: int) -> Tensor:
        """Elements of a tensor as its bytes on the device."""
        first = start * WIDTH[stored.dtype]

        def fill(at: int, into: Bytes) -> None:
            self.host.files.read(stored, first + at, into.data)

        return self._moved((stop - start) * WIDTH[stored.dtype], fill)

    def move(self, values: F32) -> Tensor:
        """Values of the host on the device; they may be overwritten at once."""
        source = values.view("u1")

        def fill(at: int, into: Bytes) -> None:
            into[:] = source[at : at + len(into)]

        return self._moved(source.size, fill).view(torch.float32)

    def back(self, values: Tensor) -> Iterator[tuple[int, Bytes]]:
        """The bytes of a tensor, part by part, each with its place; a part is overwritten when the next but one comes."""
        source = values.view(torch.uint8)
        parts: list[tuple[int, _Stage, int]] = []
        for at in range(0, source.numel(), _STAGE_BYTES):
            size, stage = min(_STAGE_BYTES, source.numel() - at), self._next()
            stage.memory[:size].copy_(source[at : at + size], non_blocking=True)
            stage.mark()
            parts.append((at, stage, size))
            if len(parts) == len(self._stages):
                yield _arrived(*parts.pop(0))
        for part in parts:
            yield _arrived(*part)

    def _moved(self, size: int, fill: Callable[[int, Bytes], None]) -> Tensor:
        result = torch.empty(size, dtype=torch.uint8, device=self.device)
        for at in range(0, size, _STAGE_BYTES):
            count, stage = min(_STAGE_BYTES, size - at), self._next()
            fill(at, stage.bytes[:count])
            result[at : at + count].copy_(stage.memory[:count], non_blocking=True)
            stage.mark()
        return result

    def _next(self) -> _Stage:
        self._turn = (self._turn + 1) % len(self._stages)
        stage = self._stages[self._turn]
        stage.wait()
        return stage


def _arrived(at: int, stage: _Stage, size: int) -> tuple[int, Bytes]:
    stage.wait()
    return at, stage.bytes[:size]
