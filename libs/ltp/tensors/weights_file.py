"""Writes a safetensors file one tensor at a time, so that a model is never in memory as a whole.

The `safetensors` package writes only whole dictionaries. Format: https://github.com/huggingface/safetensors#format —
8 bytes of header length (little endian), a JSON header, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ltp.tensors.shards import memory_of

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class Entry:
    """A tensor that is to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's values."""
        return prod(self.shape) * self.dtype.itemsize


def header(entries: Sequence[Entry]) -> bytes:
    """The file's beginning, padded with spaces so that the values start at a multiple of 8."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        span = [offset, offset + entry.size_bytes]
        fields[entry.name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_weights(path: Path, entries: Sequence[Entry], tensor_of: Callable[[str], Tensor]) -> None:
    """Write `entries` in the order given; `tensor_of` is asked for one tensor at a time.

    Wider types should come first, so that every tensor starts at a multiple of its width.
    Raises ValueError when a tensor is not what its entry says.
    """
    with path.open("wb") as stream:
        stream.write(header(entries))
        for entry in entries:
            tensor = tensor_of(entry.name)
            if (tensor.dtype, tuple(tensor.shape)) != (entry.dtype, entry.shape):
                raise ValueError(
                    f"{entry.name} is {tensor.dtype} {tuple(tensor.shape)}, not {entry.dtype} {entry.shape}"
                )
            stream.write(memory_of(tensor))
