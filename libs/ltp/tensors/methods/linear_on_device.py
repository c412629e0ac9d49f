"""The methods of `linear` as torch computes them on a device, with the same roundings: the bytes are the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ltp.tensors.methods.inputs import Inputs, Merged, Settings


def linear(inputs: Inputs, settings: Settings) -> Merged:
    """As `linear.linear`: a product of each model, added with one rounding."""
    weights = torch.tensor(settings.of("weight", range(inputs.count)), dtype=torch.float32)
    total = weights.numpy().sum()
    divide = bool(settings.shared["normalize"]) and float(total) != 1.0

    def merged(start: int, stop: int) -> Tensor:
        result = inputs.read(0, start, stop).mul_(weights[0])
        for index in range(1, inputs.count):
            result.add_(inputs.read(index, start, stop), alpha=float(weights[index]))
        # Not by a number, for which a GPU multiplies by the reciprocal.
        return result.div_(result.new_tensor([total])) if divide else result

    return merged


def nearswap(inputs: Inputs, settings: Settings) -> Merged:
    """As `linear.nearswap`."""
    assert inputs.base is not None
    base_index, (other,), t = inputs.base, inputs.others, float(settings.shared["t"])

    def merged(start: int, stop: int) -> Tensor:
        base, near = inputs.read(base_index, start, stop), inputs.read(other, start, stop)
        # A number over a tensor would be its reciprocal, times the number.
        share = (base - near).abs_().clamp_(min=1e-6)
        share = torch.div(share.new_tensor([t]), share).clamp_(max=1)
        return near.mul_(share).add_(base.mul_(1 - share))

    return merged


def passthrough(inputs: Inputs, settings: Settings) -> Merged:
    """As `linear.passthrough`."""
    scale = settings.inputs[0].get("scale")

    def merged(start: int, stop: int) -> Tensor:
        values = inputs.read(0, start, stop)
        return values if scale is None else values.mul_(float(scale))

    return merged
