"""The methods that add differences from a base: task arithmetic, and what thins the differences out before.

Arithmetic is done as if in the type the models are merged in (each operation rounded to it), as mergekit does: that makes
task arithmetic bit-identical to it, and TIES equal wherever no magnitudes tie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ltp.tensors.counter_rng import LEVELS, draws, kept, kept_there, key_of
from ltp.tensors.methods.inputs import Inputs, Merged, Settings
from ltp.tensors.methods.ranks import Cut, cuts
from ltp.tensors.methods.reductions import dot, total

_TINY = 1e-7
# Elements of a weight whose masks stay on the device between the passes, a byte each.
_REMEMBERED = 1 << 26


class Thinning(ABC):
    """Which elements of each model's difference stay. Pieces are asked for in order; `rewind` begins a new pass."""

    def rewind(self) -> None:  # noqa: B027 - most have nothing to rewind
        """Begin a new pass."""

    @abstractmethod
    def thin(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        """The difference of the model at `place` among the others, with what is dropped set to zero, in place."""

    def lengths(self, place: int, delta: Tensor, start: int, stop: int) -> tuple[float, float]:
        """The sum of magnitudes of all and of what stays; `delta` is used up."""
        return total(delta.abs()), total(self.thin(place, delta, start, stop).abs())


class _KeepAll(Thinning):
    def thin(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        return delta


class _ByRank(Thinning):
    """Keeps the ranks [first, last) by magnitude."""

    def __init__(self, inputs: Inputs, windows: Sequence[tuple[int, int]]) -> None:
        coarse = inputs.dtype == "BF16"
        ranks = [[first, last] for first, last in windows]
        self._cuts: list[list[Cut]] = cuts(lambda: _deltas(inputs), ranks, inputs.elements, coarse=coarse)
        self._windows, self._elements = windows, inputs.elements

    def rewind(self) -> None:
        for pair in self._cuts:
            for cut in pair:
                cut.rewind()

    def thin(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        first, last = self._windows[place]
        if (first, last) == (0, self._elements):
            return delta
        upper, lower = self._cuts[place]
        kept = lower.keep(delta)
        return kept.sub(upper.keep(delta)) if first else kept


class _Random(Thinning):
    """Keeps each element with the probability `density`, drawn from (seed, weight, model, element)."""

    def __init__(self, inputs: Inputs, densities: Sequence[float]) -> None:
        self._keys = [key_of(inputs.seed, inputs.name, index) for index in inputs.others]
        self._levels = [round(density * LEVELS) for density in densities]
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def thin(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        level = self._levels[place]
        return delta if level >= LEVELS else delta.mul_(self._kept(place, delta, start, stop))

    def lengths(self, place: int, delta: Tensor, start: int, stop: int) -> tuple[float, float]:
        whole = total(delta.abs_())
        if self._levels[place] >= LEVELS:
            return whole, whole
        return whole, dot(delta, self._kept(place, delta, start, stop))

    def _kept(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        """1.0 where an element stays. Drawn by the processor, and remembered on a device, where that is what is waited for."""
        if delta.device.type == "cpu":
            return kept(self._keys[place], self._levels[place], start, stop)
        if (place, start) not in self._drawn:
            drawn = kept_there(self._keys[place], self._levels[place], start, stop, delta.device)
            if start > _REMEMBERED:
                return drawn.to(torch.float32)
            self._drawn[place, start] = drawn
        return self._drawn[place, start].to(torch.float32)


class _ByRankInRow(Thinning):
    """Keeps with a probability that grows with the rank in the row, from density - epsilon to density + epsilon."""

    def __init__(self, inputs: Inputs, densities: Sequence[float], epsilons: Sequence[float]) -> None:
        self._keys = [key_of(inputs.seed, inputs.name, index) for index in inputs.others]
        self._densities, self._epsilons, self._row = densities, epsilons, inputs.row
        self._coarse = inputs.dtype == "BF16"

    def thin(self, place: int, delta: Tensor, start: int, stop: int) -> Tensor:
        density, epsilon = self._densities[place], self._epsilons[place]
        if density >= 1:
            return delta
        if density <= 0:
            return delta.zero_()
        order = _ordered(delta.abs().view(-1, self._row), coarse=self._coarse)
        share = torch.linspace(density - epsilon, density + epsilon, self._row).to(delta.device)
        chance = torch.empty_like(delta).view(-1, self._row).scatter_(1, order, share.expand(order.shape))
        drawn = draws(self._keys[place], start, stop).to(delta.device)
        return delta.mul_(drawn < chance.view(-1) * LEVELS)


def _ordered(magnitudes: Tensor, *, coarse: bool) -> Tensor:
    """Indexes that sort each row ascending, the lower index first among equals."""
    if coarse and magnitudes.device.type == "cpu":
        # The bits of a positive bfloat16 sort as it does, and numpy sorts 16 bits by radix.
        bits = magnitudes.to(torch.bfloat16).view(torch.int16).numpy()
        return torch.from_numpy(np.argsort(bits, axis=1, kind="stable"))
    return magnitudes.argsort(dim=1, stable=True)


def _deltas(inputs: Inputs) -> Iterator[list[Tensor]]:
    assert inputs.base is not None
    for start, stop in inputs.pieces():
        base = inputs.read(inputs.base, start, stop)
        yield [inputs.delta(index, base, start, stop) for index in inputs.others]


def _scales(inputs: Inputs, thinning: Thinning) -> list[float | None]:
    """What keeps each difference's L1 norm as it was before thinning, rounded to the type; None where a norm is tiny."""
    count = len(inputs.others)
    before, after = [0.0] * count, [0.0] * count
    thinning.rewind()
    for (start, stop), deltas in zip(inputs.pieces(), _deltas(inputs), strict=True):
        for place, delta in enumerate(deltas):
            whole, stays = thinning.lengths(place, delta, start, stop)
            before[place] += whole
            after[place] += stays
    found: list[float | None] = []
    for one, other in zip(before, after, strict=True):
        norms = inputs.round(torch.tensor([one, other], dtype=torch.float32))
        tiny = bool((norms < _TINY).any())
        found.append(None if tiny else float(inputs.round((norms[0] / norms[1]).reshape(1))))
    return found


def _added(inputs: Inputs, settings: Settings, thinning: Thinning, *, elect: bool) -> Merged:
    """Gives base + lambda * sum of weighted differences; `elect` keeps only those of the sign that outweighs the other."""
    assert inputs.base is not None
    base_index, others, shared = inputs.base, inputs.others, settings.shared
    weights = inputs.round(torch.tensor(settings.of("weight", others), dtype=torch.float32))
    scales = _scales(inputs, thinning) if shared["rescale"] else [None] * len(others)
    thinning.rewind()
    mix = _elected if elect else _summed

    def merged(start: int, stop: int) -> Tensor:
        base = inputs.read(base_index, start, stop)
        deltas: list[Tensor] = []
        for place, index in enumerate(others):
            delta = thinning.thin(place, inputs.delta(index, base, start, stop), start, stop)
            scale = scales[place]
            if scale is not None:
                inputs.round(delta.mul_(scale))
            deltas.append(inputs.round(delta.mul_(weights[place])))
        mixed, divisor = mix(inputs, deltas, weights if shared["normalize"] else None)
        inputs.round(mixed)
        if divisor is not None:
            # On the same device: by a number a GPU divides through multiplying by its reciprocal.
            inputs.round(mixed.div_(inputs.round(divisor.to(mixed.device))))
        if shared["lambda"] != 1:
            inputs.round(mixed.mul_(float(shared["lambda"])))
        return base.add_(mixed)

    return merged


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total.add_(term)
    return total


def _summed(inputs: Inputs, deltas: Sequence[Tensor], weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if weights is None:
        return _total(deltas), None
    divisor = inputs.round(weights.sum().reshape(1))
    return _total(deltas), torch.where(divisor.abs() < 1e-8, 1.0, divisor)


def _elected(inputs: Inputs, deltas: Sequence[Tensor], weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Sum and, where weights are given, weight of the differences whose sign is that of their sum (zero counts as positive)."""
    sign = _total(deltas)
    torch.ge(sign, 0.0, out=sign).mul_(2).sub_(1)
    # Turned so that what agrees is positive. Masks are float32: bool ones cost several times as much.
    turned = [delta.mul_(sign) for delta in deltas]
    divisor = None if weights is None else _agreeing(turned, weights)
    mixed = turned[0].clamp_(min=0)
    for other in turned[1:]:
        mixed.add_(other.clamp_(min=0))
    return mixed.mul_(sign), divisor


def _agreeing(turned: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weight of what is positive, 1 where nothing is."""
    divisor, agrees = torch.zeros_like(turned[0]), torch.empty_like(turned[0])
    for place, delta in enumerate(turned):
        divisor.add_(torch.gt(delta, 0.0, out=agrees), alpha=float(weights[place]))
    return divisor.add_(torch.eq(divisor, 0.0, out=agrees))


def _top(inputs: Inputs, densities: Sequence[float]) -> Thinning:
    count = inputs.elements
    kept = [count if d >= 1 else 0 if d <= 0 else max(1, int(d * count)) for d in densities]
    return _ByRank(inputs, [(0, number) for number in kept])


def _middle(inputs: Inputs, densities: Sequence[float], gammas: Sequence[float]) -> Thinning:
    """Without the largest `gamma`, as far as `density` leaves room for it, and then without the smallest."""
    count = inputs.elements
    windows: list[tuple[int, int]] = []
    for density, gamma in zip(densities, gammas, strict=True):
        kept, outliers = int(density * count), int(gamma * count)
        smallest = max(0, count - kept - outliers)
        last = count - smallest
        windows.append((0, count) if density >= 1 else (last - kept, last))
    return _ByRank(inputs, windows)


def task_arithmetic(inputs: Inputs, settings: Settings) -> Merged:
    """Gives base + sum of weighted differences: Ilharco et al. 2023, "Editing models with task arithmetic" (arXiv:2212.04089)."""
    return _added(inputs, settings, _KeepAll(), elect=False)


def ties(inputs: Inputs, settings: Settings) -> Merged:
    """Trim by magnitude, elect signs, merge: Yadav et al. 2023, "TIES-Merging" (arXiv:2306.01708)."""
    return _added(inputs, settings, _top(inputs, settings.of("density", inputs.others)), elect=True)


def dare_linear(inputs: Inputs, settings: Settings) -> Merged:
    """Drop at random and rescale: Yu et al. 2024, "Language models are super Mario" (arXiv:2311.03099).

    Rescaled to the L1 norm before dropping, as mergekit does, not by 1 / density.
    """
    return _added(inputs, settings, _Random(inputs, settings.of("density", inputs.others)), elect=False)


def dare_ties(inputs: Inputs, settings: Settings) -> Merged:
    """DARE, then TIES's election of signs (arXiv:2311.03099, arXiv:2306.01708)."""
    return _added(inputs, settings, _Random(inputs, settings.of("density", inputs.others)), elect=True)


def _breadcrumbs(inputs: Inputs, settings: Settings) -> Thinning:
    return _middle(inputs, settings.of("density", inputs.others), settings.of("gamma", inputs.others))


def breadcrumbs(inputs: Inputs, settings: Settings) -> Merged:
    """Without outliers and small differences: Davari and Belilovsky 2024, "Model breadcrumbs" (arXiv:2312.06795)."""
    return _added(inputs, settings, _breadcrumbs(inputs, settings), elect=False)


def breadcrumbs_ties(inputs: Inputs, settings: Settings) -> Merged:
    """Breadcrumbs, then TIES's election of signs (arXiv:2312.06795, arXiv:2306.01708)."""
    return _added(inputs, settings, _breadcrumbs(inputs, settings), elect=True)


def _della(inputs: Inputs, settings: Settings) -> Thinning:
    others = inputs.others
    return _ByRankInRow(inputs, settings.of("density", others), settings.of("epsilon", others))


def della(inputs: Inputs, settings: Settings) -> Merged:
    """Drop small differences more often, elect signs: Deep et al. 2024, "DELLA-Merging" (arXiv:2406.11617)."""
    return _added(inputs, settings, _della(inputs, settings), elect=True)


def della_linear(inputs: Inputs, settings: Settings) -> Merged:
    """DELLA without the election of signs (arXiv:2406.11617)."""
    return _added(inputs, settings, _della(inputs, settings), elect=False)
