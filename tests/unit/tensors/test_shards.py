"""Gathering is the inverse of sharding, for every mesh and for sizes that do not divide."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor.placement_types import Partial, Placement, Replicate, Shard

from ltp.tensors.shards import gather, same_bits


def split(tensor: torch.Tensor, placements: list[Placement], mesh: list[int]) -> list[torch.Tensor]:
    """What a mesh holds of a tensor, in row-major order: `torch.chunk` with empty pieces for the ranks left over."""
    if not placements:
        return [tensor]
    size, placement = mesh[0], placements[0]
    parts = [tensor] * size
    if isinstance(placement, Shard):
        parts = list(torch.chunk(tensor, size, dim=placement.dim))
        parts += [tensor.narrow(placement.dim, 0, 0)] * (size - len(parts))
    return [piece for part in parts for piece in split(part, placements[1:], mesh[1:])]


PLACEMENTS = st.sampled_from([Shard(0), Shard(1), Replicate()])


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.tuples(PLACEMENTS, st.integers(1, 5)), min_size=1, max_size=2),
)
def test_gather_undoes_the_split(shape: tuple[int, int], mesh: list[tuple[Placement, int]]) -> None:
    tensor = torch.randn(shape)
    placements, sizes = [placement for placement, _ in mesh], [size for _, size in mesh]
    assert same_bits(gather(split(tensor, placements, sizes), placements, sizes), tensor)


def test_what_cannot_be_gathered() -> None:
    one, other = torch.zeros(2), torch.ones(2)
    for pieces, placement, said in (
        ([one, other], Replicate(), "replicas differ"),
        ([one, other], Partial(), "not supported"),
        ([one, other, one], Shard(0), "do not fill"),
    ):
        with pytest.raises(ValueError, match=said):
            gather(pieces, [placement], [2])


def test_bits_not_values() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.bfloat16))
    assert same_bits(torch.tensor(1.0), torch.tensor(1.0))
    assert same_bits(torch.eye(3)[:, 1:].T, torch.eye(3)[:, 1:].T.clone())
