"""Puts a sharded tensor together again from its pieces, bit for bit, without a process group.

The layout is DTensor's (torch.distributed.tensor): one placement for each dimension of the device mesh, the first
dimension splitting first. FSDP shards along a tensor dimension as `torch.chunk` does, so the last pieces may be smaller
or empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor.placement_types import Placement, Replicate, Shard


def gather(pieces: Sequence[Tensor], placements: Sequence[Placement], mesh_shape: Sequence[int]) -> Tensor:
    """The whole tensor from the local tensors of a mesh, given in row-major order of the mesh.

    Raises ValueError: replicas that differ, a placement other than Shard and Replicate, too few pieces.
    """
    if len(placements) != len(mesh_shape):
        raise ValueError(f"{len(placements)} placements for a mesh of {len(mesh_shape)} dimensions")
    if not placements:
        if len(pieces) != 1:
            raise ValueError(f"{len(pieces)} pieces are left where one was due")
        return pieces[0]
    block, rest = divmod(len(pieces), mesh_shape[0])
    if rest or not block:
        raise ValueError(f"{len(pieces)} pieces do not fill a mesh dimension of {mesh_shape[0]}")
    blocks = [pieces[start : start + block] for start in range(0, len(pieces), block)]
    return combine([gather(inner, placements[1:], mesh_shape[1:]) for inner in blocks], placements[0])


def combine(parts: Sequence[Tensor], placement: Placement) -> Tensor:
    """One tensor from the parts along one mesh dimension."""
    # The exact type: a strided shard is laid out in another order, and a partial sum is no weight.
    if type(placement) is Shard:
        dim = int(placement.dim)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)
    if type(placement) is Replicate:
        if not all(same_bits(parts[0], part) for part in parts[1:]):
            raise ValueError("replicas differ")
        return parts[0]
    raise ValueError(f"placement {placement} is not supported")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have equal type, shape and bytes; unlike `torch.equal`, a NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor: Tensor) -> Tensor:
    """The tensor's memory in row-major order, as a flat uint8 tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def memory_of(tensor: Tensor) -> memoryview:
    """The same bytes for hashing and writing, without a copy where the tensor is contiguous."""
    return as_bytes(tensor).numpy().data
