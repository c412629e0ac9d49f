"""Random numbers that depend on nothing but (seed, tensor, model, element): any thread, order or restart draws the same.

Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as numpy has it. A counter step gives
256 bits, taken as sixteen 16-bit lanes, so element e has counter e // 16 and lane e % 16.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

_LANES = 16
LEVELS = 1 << 16


def key_of(seed: int, tensor: str, model: int) -> int:
    """The 128-bit key of a tensor of a model."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "little")


def draws(key: int, start: int, stop: int) -> Tensor:
    """Uniform whole numbers in [0, 65536) for the elements `start` to `stop`, as float32."""
    first = start // _LANES
    blocks = -(-stop // _LANES) - first
    # numpy increases the counter before it draws, so one below the block wanted (modulo 2^256).
    generator = np.random.Philox(key=key, counter=(first - 1) % (1 << 256))
    lanes = generator.random_raw(blocks * 4).view(np.int16)
    taken = lanes[start - first * _LANES : stop - first * _LANES]
    # Signed words and float32 are what torch converts and compares quickly; both are exact here.
    return torch.from_numpy(taken).to(torch.float32).add_(LEVELS // 2)
