"""The number types of weights, to and from float32, without torch, which takes longer to load than a small merge to do.

bfloat16 is the upper half of a float32; numpy has no such type, so its bits are moved.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The smallest magnitude that rounds to infinity.
OVERFLOWS = {
    "F32": np.float32(np.inf),
    "BF16": np.uint32(0x7F7F8000).view(np.float32),
    "F16": np.float32(65520),
}


def decode(raw: Bytes, dtype: str, into: F32) -> None:
    """Fill `into` with the values that `raw` holds in a type."""
    if dtype == "BF16":
        np.left_shift(raw.view(np.uint16), 16, out=into.view(np.uint32), dtype=np.uint32)
    else:
        into[:] = raw.view(np.float16 if dtype == "F16" else np.float32)


def encode(values: F32, dtype: str) -> Bytes:
    """The values in a type, rounded to the nearest, ties to even; `fits` says whether all of them can be. `values` is used up."""
    if dtype == "BF16":
        return (_rounded_bits(values) >> 16).astype(np.uint16).view(np.uint8)
    return (values.astype(np.float16) if dtype == "F16" else np.ascontiguousarray(values)).view(np.uint8)


def rounded(values: F32, dtype: str) -> F32:
    """The values rounded to a type, in place."""
    if dtype == "BF16":
        bits = _rounded_bits(values)
        np.bitwise_and(bits, 0xFFFF0000, out=bits)
    elif dtype == "F16":
        values[:] = values.astype(np.float16)
    return values


def fits(values: F32, dtype: str) -> bool:
    """Whether every value is finite, and stays so in a type."""
    # NaN is neither smaller nor larger than anything, and the extremes of what holds one are NaN.
    limit = OVERFLOWS[dtype]
    return values.size == 0 or bool(values.max() < limit and values.min() > -limit)


def _rounded_bits(values: F32) -> NDArray[np.uint32]:
    """What the upper 16 bits of float32 are when rounded stands there; below them is what is left over."""
    bits = values.view(np.uint32)
    carry = np.right_shift(bits, 16)
    np.bitwise_and(carry, 1, out=carry)
    np.add(carry, 0x7FFF, out=carry)
    return np.add(bits, carry, out=bits)
