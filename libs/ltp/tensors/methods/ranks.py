"""Selecting elements by the rank of their magnitude, exactly, in linear time and without sorting.

Ranks are descending; equal magnitudes are ordered by index, the lower first, so the choice never depends on a sort's whims
(a quarter of the differences between bfloat16 models tie). The bits of |x| as float32 are monotone in |x|: a histogram of
their upper 15 bits finds the bin a rank falls in, and for types finer than bfloat16 a second one, of the lower 16 bits, the
exact value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltp.tensors.methods.reductions import total

_HIGH, _LOW = 1 << 15, 1 << 16


@dataclass
class Cut:
    """The first `rank` elements in descending order: those above `value`, and the first `ties` of those equal to it."""

    value: float
    ties: int
    _left: int = 0

    def rewind(self) -> None:
        """Begin a new pass over the pieces."""
        self._left = self.ties

    def keep(self, values: Tensor) -> Tensor:
        """The next piece with everything behind the cut set to zero. Pieces are asked for in order."""
        if self.value == 0:
            # Everything, or so many that zeros are among it: they are zero either way.
            return values
        # hardshrink keeps |x| > value in one quick pass, where masks of bool are slow.
        if not self._left:
            return torch.nn.functional.hardshrink(values, self.value)
        tie = values.abs()
        tied = int(total(torch.eq(tie, self.value, out=tie)))
        kept = torch.nn.functional.hardshrink(values, _below(self.value))
        if tied > self._left:
            kept[tie.nonzero()[self._left :, 0]] = 0.0
        self._left -= min(tied, self._left)
        return kept


def _below(value: float) -> float:
    """The next smaller float32."""
    return float(np.nextafter(np.float32(value), np.float32(0)))


NOTHING, EVERYTHING = float("inf"), 0.0

Passes = Callable[[], Iterable[Sequence[Tensor]]]


def cuts(passes: Passes, ranks: Sequence[Sequence[int]], elements: int, *, coarse: bool) -> list[list[Cut]]:
    """The cut at every rank asked for: `ranks[s]` are those of series `s` in what a pass yields piece by piece.

    `coarse` says that values have no more bits than bfloat16, so that one pass suffices.
    """
    series = [index for index, wanted in enumerate(ranks) if any(0 < rank < elements for rank in wanted)]
    counts = {index: torch.zeros(_HIGH, dtype=torch.int64) for index in series}
    if series:
        for piece in passes():
            for index in series:
                counts[index] += torch.bincount(_high(piece[index], coarse=coarse), minlength=_HIGH).cpu()
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for index in series:
        for rank in ranks[index]:
            if 0 < rank < elements:
                found[index, rank] = _bin_of(counts[index], rank)
    fine = {} if coarse else _refined(passes, found)
    return [[_cut(found, fine, index, rank, elements) for rank in wanted] for index, wanted in enumerate(ranks)]


def _high(values: Tensor, *, coarse: bool) -> Tensor:
    """The upper 15 bits of |x| as float32. int64 is what bincount is quickest on."""
    if coarse:
        return values.abs().to(torch.bfloat16).view(torch.int16).to(torch.int64)
    # Every second 16-bit word, the machine being little-endian; shifts of int32 are slow here.
    return values.abs().view(torch.int16)[1::2].to(torch.int64)


def _low(values: Tensor) -> Tensor:
    return values.view(torch.int16)[::2].to(torch.int32) & 0xFFFF


def _bin_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """(bin, how many of its elements come before `rank`)."""
    reached = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, rank))
    return len(counts) - 1 - place, rank - (int(reached[place - 1]) if place else 0)


def _refined(passes: Passes, found: dict[tuple[int, int], tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
    """Histograms of the lower bits inside the bins found, by (series, bin)."""
    bins = {(index, place) for (index, _), (place, _) in found.items()}
    counts = {key: torch.zeros(_LOW, dtype=torch.int64) for key in bins}
    if bins:
        for piece in passes():
            high = {index: _high(piece[index], coarse=False) for index, _ in bins}
            for index, place in bins:
                inside = _low(piece[index][high[index] == place])
                counts[index, place] += torch.bincount(inside, minlength=_LOW).cpu()
    return counts


def _cut(
    found: dict[tuple[int, int], tuple[int, int]],
    fine: dict[tuple[int, int], Tensor],
    index: int,
    rank: int,
    elements: int,
) -> Cut:
    if rank <= 0:
        return Cut(NOTHING, 0)
    if rank >= elements:
        return Cut(EVERYTHING, 0)
    place, before = found[index, rank]
    low = 0
    if (index, place) in fine:
        low, before = _bin_of(fine[index, place], before)
    (value,) = struct.unpack("<f", struct.pack("<I", place << 16 | low))
    return Cut(value, before)
