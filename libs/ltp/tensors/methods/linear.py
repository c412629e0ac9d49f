"""The methods that need one look at each element: weighted mean, near swap, and a model taken as it is."""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import saxpy  # pyright: ignore[reportAttributeAccessIssue] — made when it is loaded

from ltp.tensors.methods.inputs import Inputs, Merged, Settings
from ltp.tensors.numbers import F32


def linear(inputs: Inputs, settings: Settings) -> Merged:
    """Weighted mean in float32: Wortsman et al. 2022, "Model soups" (arXiv:2203.05482).

    The operations are mergekit's, model by model a product added with one rounding, so that the bits are the same.
    """
    weights = np.array(settings.of("weight", range(inputs.count)), dtype=np.float32)
    total = weights.sum()
    divide = bool(settings.shared["normalize"]) and float(total) != 1.0

    def merged(start: int, stop: int) -> F32:
        result = inputs.values(0, start, stop)
        result *= weights[0]
        for index in range(1, inputs.count):
            result = saxpy(inputs.values(index, start, stop), result, a=weights[index])
        if divide:
            result /= total
        return result

    return merged


def nearswap(inputs: Inputs, settings: Settings) -> Merged:
    """The other model where it is near the base, little of it where it is far: alchemonaut 2024 (QuartetAnemoi-70B).

    weight = min(1, t / |a - b|).
    """
    assert inputs.base is not None
    base_index, (other,), t = inputs.base, inputs.others, float(settings.shared["t"])

    def merged(start: int, stop: int) -> F32:
        base, near = inputs.values(base_index, start, stop), inputs.values(other, start, stop)
        share = np.minimum(t / np.maximum(np.abs(base - near), np.float32(1e-6)), np.float32(1))
        near *= share
        base *= 1 - share
        near += base
        return near

    return merged


def passthrough(inputs: Inputs, settings: Settings) -> Merged:
    """One model's weight, times `scale` where that is given: what stacks layers ("frankenmerge")."""
    scale = settings.inputs[0].get("scale")

    def merged(start: int, stop: int) -> F32:
        values = inputs.values(0, start, stop)
        if scale is not None:
            values *= np.float32(scale)
        return values

    return merged
