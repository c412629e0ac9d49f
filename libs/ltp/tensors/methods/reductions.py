"""Sums over a piece of a weight, whose order decides their last bits: a processor's own, or in float64 where the order is a GPU's.

In float64 the order of a sum is lost when its result is rounded to the type that the merge is done in, but for one case in
many; so a result does not depend on how a GPU shares out its threads.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dot(one: Tensor, other: Tensor) -> float:
    """The dot product of two flat float32 pieces."""
    return float((one.double() * other).sum() if one.is_cuda else torch.dot(one, other))


def total(values: Tensor) -> float:
    """The sum of a float32 piece."""
    return float(values.sum(dtype=torch.float64) if values.is_cuda else values.sum())
