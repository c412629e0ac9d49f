"""The methods that need one look at each element: weighted mean, near swap, and a model taken as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from ltp.tensors.methods.inputs import Inputs, Merged, Settings


def linear(inputs: Inputs, settings: Settings) -> Merged:
    """Weighted mean in float32: Wortsman et al. 2022, "Model soups" (arXiv:2203.05482).

    The order of the operations is mergekit's, product then sum model by model, so that the bits are the same.
    """
    weights = torch.tensor(settings.of("weight", range(inputs.count)), dtype=torch.float32)
    total = weights.sum()
    divide = bool(settings.shared["normalize"]) and float(total) != 1.0

    def merged(start: int, stop: int) -> Tensor:
        result = inputs.read(0, start, stop).mul_(weights[0])
        for index in range(1, inputs.count):
            result.add_(inputs.read(index, start, stop), alpha=float(weights[index]))
        return result.div_(total) if divide else result

    return merged


def nearswap(inputs: Inputs, settings: Settings) -> Merged:
    """The other model where it is near the base, little of it where it is far: alchemonaut 2024 (QuartetAnemoi-70B).

    weight = min(1, t / |a - b|).
    """
    assert inputs.base is not None
    base_index, (other,), t = inputs.base, inputs.others, float(settings.shared["t"])

    def merged(start: int, stop: int) -> Tensor:
        base, near = inputs.read(base_index, start, stop), inputs.read(other, start, stop)
        share = (base - near).abs_().clamp_(min=1e-6).reciprocal_().mul_(t).clamp_(0, 1)
        return near.mul_(share).add_(base.mul_(share.neg_().add_(1)))

    return merged


def passthrough(inputs: Inputs, settings: Settings) -> Merged:
    """One model's weight, times `scale` where that is given: what stacks layers ("frankenmerge")."""
    scale = settings.inputs[0].get("scale")

    def merged(start: int, stop: int) -> Tensor:
        values = inputs.read(0, start, stop)
        return values if scale is None else values.mul_(float(scale))

    return merged
