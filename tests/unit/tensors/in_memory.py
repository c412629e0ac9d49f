"""Whole tensors as a merge method's inputs, and its result as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltp.tensors.methods.inputs import Inputs, Merged, as_array
from ltp.tensors.numbers import F32

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {dtype: name for name, dtype in TYPES.items()}


class InMemory(Inputs):
    """Inputs from whole tensors of one type."""

    def __init__(
        self, tensors: Sequence[Tensor], *, base: int | None = None, name: str = "weight", seed: int = 0
    ) -> None:
        self.name, self.base, self.seed, self.count = name, base, seed, len(tensors)
        self.shape, self.dtype = tuple(tensors[0].shape), _NAMES[tensors[0].dtype]
        self._flat = [tensor.float().reshape(-1) for tensor in tensors]

    def values(self, index: int, start: int, stop: int) -> F32:
        """A copy, since methods work in place."""
        return self._flat[index][start:stop].clone().numpy()


def whole(inputs: Inputs, merged: Merged) -> Tensor:
    """The merged weight as one tensor of the inputs' type."""
    pieces = [torch.from_numpy(as_array(merged(start, stop)).copy()) for start, stop in inputs.pieces()]
    return torch.cat(pieces).to(TYPES[inputs.dtype]).reshape(inputs.shape)
