"""Random numbers that depend on nothing but (seed, tensor, model, element): any thread, order or restart draws the same.

Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as numpy has it. A counter step gives
256 bits, taken as sixteen lanes of 16 bits (element e has counter e // 16 and lane e % 16) or thirty-two of 8.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK_BITS = 256
LEVELS = 1 << 16


def key_of(seed: int, tensor: str, model: int) -> int:
    """The 128-bit key of a tensor of a model."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "little")


def draws(key: int, start: int, stop: int) -> Tensor:
    """Uniform whole numbers in [0, 65536) for the elements `start` to `stop`, as float32."""
    # Signed words and float32 are what torch converts and compares quickly; both are exact here.
    return torch.from_numpy(_lanes(key, start, stop, 16)).to(torch.float32).add_(LEVELS // 2)


def kept(key: int, level: int, start: int, stop: int) -> Tensor:
    """1.0 in `level` of 65,536 cases, else 0.0, for the elements `start` to `stop`.

    Where 8 bits say it exactly (a half, a quarter, ...) they are half the work of 16.
    """
    lanes, below = _chances(key, level, start, stop)
    return torch.from_numpy(np.less(lanes, below).view(np.uint8)).to(torch.float32)


def kept_there(key: int, level: int, start: int, stop: int, device: torch.device) -> Tensor:
    """The same as bool on a device, which is left the comparing."""
    lanes, below = _chances(key, level, start, stop)
    return torch.from_numpy(lanes).to(device) < below


def _chances(key: int, level: int, start: int, stop: int) -> tuple[NDArray[np.signedinteger], int]:
    """Draws, and what they are below where an element stays."""
    bits = 8 if level % 256 == 0 else 16
    return _lanes(key, start, stop, bits), (level >> (16 - bits)) - (1 << (bits - 1))


def _lanes(key: int, start: int, stop: int, bits: int) -> NDArray[np.signedinteger]:
    each = _BLOCK_BITS // bits
    first = start // each
    blocks = -(-stop // each) - first
    # numpy increases the counter before it draws, so one below the block wanted (modulo 2^256).
    generator = np.random.Philox(key=key, counter=(first - 1) % (1 << 256))
    lanes = generator.random_raw(blocks * 4).view(np.int8 if bits == 8 else np.int16)
    return lanes[start - first * each : stop - first * each]
