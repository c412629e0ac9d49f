"""The device that a merge is computed on, as a value: which one, how much it takes at a time, and how many threads feed it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.methods.inputs import PIECE

# 8 Mi elements: a kernel over them takes longer than starting it.
_LARGE = 1 << 23
# Bytes of device memory an element: what a method has in hand (float32 differences, masks, 64-bit indexes), and a model's part of
# it (its bytes, which stay until the weight is done, its values, its difference).
_STANDING, _EACH = 56, 10
# Of what is free: the rest is for the context, and for what the allocator cannot use.
_SHARE = 0.7
# More would wait for the interpreter's lock, and for the file.
_THREADS = 12


@dataclass(frozen=True)
class Accelerator:
    """A device by torch's name for it, the elements of a piece, and the threads that bring pieces to it."""

    device: torch.device
    piece: int
    workers: int

    @property
    def is_gpu(self) -> bool:
        """Whether memory has to be moved to it."""
        return self.device.type != "cpu"

    def peak_bytes(self) -> int | None:
        """The most that was taken of a GPU at one time, without its context."""
        return torch.cuda.max_memory_reserved(self.device) if self.is_gpu else None


def must_work(name: str) -> None:
    """Raises HOST_UNFIT when torch here cannot use GPUs, NO_HOST when there is none to use. Takes no memory of one."""
    if torch.device(name).type == "cpu":
        return
    if torch.version.cuda is None:
        message = f"torch {torch.__version__} of this interpreter computes on processors only."
        hint = "Install the extra `gpu`, or name an interpreter that has it (LTP_SURGERY_PYTHON); or leave `device` out: cpu."
        raise LtpError(ErrorCode.HOST_UNFIT, message, hint)
    # Asks the driver's library: a context would take half a GB of a device that others use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if not torch.cuda.is_available():
        message = "This machine has no NVIDIA GPU that torch can use."
        hint = "`nvidia-smi` shows what there is. Leave `device` out to merge on the processor."
        raise LtpError(ErrorCode.NO_HOST, message, hint)


def most_bytes(models: int, threads: int | None) -> int:
    """What a merge takes of a GPU that has room for it; of a smaller one it takes less."""
    return min(threads or len(os.sched_getaffinity(0)), _THREADS) * _thread_bytes(models, _LARGE)


def _thread_bytes(models: int, piece: int) -> int:
    return piece * (_STANDING + models * _EACH)


def opened(name: str, models: int, threads: int, piece: int | None = None) -> Accelerator:
    """The device of that name, for merges of so many models. Raises HOST_UNFIT, NO_HOST."""
    must_work(name)
    device = torch.device(name)
    if device.type == "cpu":
        return Accelerator(device, piece or PIECE, threads)
    size = piece or _LARGE
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        # The first use makes a context, for which a device that others fill has no room.
        message = f"{name} cannot be used: {str(error).strip().splitlines()[0]}"
        hint = "`nvidia-smi` says who holds its memory and whether it is sound. Leave `device` out to merge on the processor."
        raise LtpError(ErrorCode.DEVICE_FAILED, message, hint) from error
    room = int(free * _SHARE) // _thread_bytes(models, size)
    return Accelerator(device, size, max(1, min(threads, _THREADS, room)))
