"""SCE: select where the models disagree most, calculate weights from energies, erase what goes against the sign."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ltp.tensors.methods.inputs import Inputs, Merged, Settings
from ltp.tensors.methods.ranks import Cut, cuts
from ltp.tensors.methods.reductions import dot


def sce(inputs: Inputs, settings: Settings) -> Merged:
    """Wan et al. 2024, "FuseChat" (arXiv:2408.07990): variance selects, mean squares weigh, the sign of the sum erases."""
    assert inputs.base is not None
    base_index, others = inputs.base, inputs.others
    share = float(settings.shared["select_topk"])
    cut = None if share >= 1 else _selection(inputs, share)
    weights = _energies(inputs, cut)
    _rewind(cut)

    def merged(start: int, stop: int) -> Tensor:
        base = inputs.read(base_index, start, stop)
        deltas = _selected(inputs, base, cut, start, stop)
        sign = torch.stack(deltas).sum(0)
        torch.ge(sign, 0.0, out=sign).mul_(2).sub_(1)
        mixed, total, agrees = torch.zeros_like(base), torch.zeros_like(base), torch.empty_like(base)
        for place in range(len(others)):
            turned = deltas[place].mul_(sign)
            total.add_(torch.gt(turned, 0.0, out=agrees), alpha=weights[place])
            mixed.add_(turned.clamp_(min=0), alpha=weights[place])
        return base.add_(mixed.mul_(sign).div_(total.clamp_(min=1e-6)))

    return merged


def _rewind(cut: Cut | None) -> None:
    if cut is not None:
        cut.rewind()


def _variance(inputs: Inputs, start: int, stop: int) -> Tensor:
    assert inputs.base is not None
    base = inputs.read(inputs.base, start, stop)
    deltas = torch.stack([inputs.delta(index, base, start, stop) for index in inputs.others])
    return deltas.var(dim=0, unbiased=False)


def _selection(inputs: Inputs, share: float) -> Cut:
    """The cut at the `share` of elements with the greatest variance, of those that vary at all."""
    varying = sum(int(torch.count_nonzero(_variance(inputs, *piece))) for piece in inputs.pieces())

    def passes() -> Iterator[list[Tensor]]:
        for piece in inputs.pieces():
            yield [_variance(inputs, *piece)]

    return cuts(passes, [[int(varying * share)]], inputs.elements, coarse=False)[0][0]


def _selected(inputs: Inputs, base: Tensor, cut: Cut | None, start: int, stop: int) -> list[Tensor]:
    deltas = [inputs.delta(index, base, start, stop) for index in inputs.others]
    if cut is not None:
        variance = torch.stack(deltas).var(dim=0, unbiased=False)
        keep = torch.ne(cut.keep(variance), 0.0, out=variance)
        for delta in deltas:
            delta.mul_(keep)
    return deltas


def _energies(inputs: Inputs, cut: Cut | None) -> list[float]:
    """Each model's mean square difference as a share of all."""
    assert inputs.base is not None
    squares = [0.0] * len(inputs.others)
    _rewind(cut)
    for start, stop in inputs.pieces():
        base = inputs.read(inputs.base, start, stop)
        for place, delta in enumerate(_selected(inputs, base, cut, start, stop)):
            squares[place] += dot(delta, delta)
    total = sum(squares)
    if total / max(1, inputs.elements) < 1e-6:
        # mergekit's rule on the sum of mean squares: too little to weigh by.
        return [1 / len(squares)] * len(squares)
    return [square / total for square in squares]
