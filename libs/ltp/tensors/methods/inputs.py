"""What a merge method sees of one weight: the same piece of every model, as float32, and the type it is merged in ("BF16").

A method is a function of (Inputs, Settings). It makes what passes over the pieces it needs (norms, thresholds), then gives
back a function from a piece to the merged piece, which is asked for the pieces in order. So no method ever holds a weight
as a whole, and what it computes does not depend on who runs it or how many threads there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ltp.tensors.numbers import F32

if TYPE_CHECKING:
    from torch import Tensor

# 256 Ki elements: a handful of float32 pieces stay in a core's cache.
PIECE = 1 << 18

Merged = Callable[[int, int], "Tensor | F32"]


def as_array(merged: Tensor | F32) -> F32:
    """What a method gave back, without a copy."""
    return merged if isinstance(merged, np.ndarray) else merged.numpy()


@dataclass
class Settings:
    """The parameters of one weight: those of the merge, and those of each input by its index."""

    shared: dict[str, Any] = field(default_factory=dict[str, Any])
    inputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def of(self, name: str, indexes: Sequence[int]) -> list[Any]:
        """A parameter's value for each of these inputs."""
        return [self.inputs[index][name] for index in indexes]


class Inputs(ABC):
    """One weight in every model. `base` is the index of the base among them; `dtype` the type the merge is done in."""

    name: str
    shape: tuple[int, ...]
    count: int
    base: int | None
    dtype: str
    seed: int
    # Elements at a time. Devices take more, where every piece costs a fixed number of kernels.
    piece: int = PIECE

    @abstractmethod
    def values(self, index: int, start: int, stop: int) -> F32:
        """Elements `start` to `stop` of a model, flat float32 with `dtype`'s values; overwritten by the next read of it."""

    def read(self, index: int, start: int, stop: int) -> Tensor:
        """The same as torch sees it."""
        import torch  # what needs none does not load it

        return torch.from_numpy(self.values(index, start, stop))

    @property
    def others(self) -> list[int]:
        """Every input but the base."""
        return [index for index in range(self.count) if index != self.base]

    @property
    def elements(self) -> int:
        """How many values the weight has."""
        return prod(self.shape)

    @property
    def row(self) -> int:
        """Length of the last dimension; a vector is one row."""
        return max(1, self.shape[-1]) if self.shape else 1

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive pieces, each of whole rows."""
        # A larger piece is a number of smaller ones: what is computed by rows on the way falls into the same parts.
        size = max(1, PIECE // self.row) * self.row
        size *= max(1, self.piece // size)
        for start in range(0, self.elements, size):
            yield start, min(start + size, self.elements)

    def round(self, values: Tensor) -> Tensor:
        """Round float32 values to `dtype`, in place: what computing in that type would have given."""
        if self.dtype != "F32":
            import torch  # what needs none does not load it

            values.copy_(values.to(torch.bfloat16 if self.dtype == "BF16" else torch.float16))
        return values

    def delta(self, index: int, base: Tensor, start: int, stop: int) -> Tensor:
        """A model's difference from the base, rounded to `dtype`."""
        return self.round(self.read(index, start, stop).sub_(base))
