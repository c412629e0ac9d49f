"""The methods that see a weight as a vector: each is a linear combination whose coefficients follow from dot products.

SLERP, its relatives, the Karcher mean and Model Stock never leave the span of their inputs. So one pass collects the Gram
matrix of the inputs, the coefficients are found on that small matrix in float64, and a second pass combines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.methods.inputs import Inputs, Merged, Settings
from ltp.tensors.methods.reductions import dot

_PARALLEL = 0.9995


def gram(inputs: Inputs, indexes: Sequence[int], origin: int | None = None) -> Tensor:
    """Dot products of the weights (less the one at `origin`), [n, n] float64, the sum over pieces in a fixed order."""
    size = len(indexes)
    total = torch.zeros(size, size, dtype=torch.float64)
    for start, stop in inputs.pieces():
        zero = None if origin is None else inputs.read(origin, start, stop)
        rows = [inputs.read(index, start, stop) for index in indexes]
        if zero is not None:
            for row in rows:
                row.sub_(zero)
        for one in range(size):
            for other in range(one, size):
                total[one, other] += dot(rows[one], rows[other])
    return total + torch.triu(total, 1).T


def combined(inputs: Inputs, coefficients: dict[int, float]) -> Merged:
    """The sum of inputs times coefficients, in float32."""
    terms = list(coefficients.items())

    def merged(start: int, stop: int) -> Tensor:
        (first, value), *rest = terms
        result = inputs.read(first, start, stop).mul_(value)
        for index, share in rest:
            # Not add_ with alpha, which fuses: of what cancels exactly it would leave the product's rounding error.
            result.add_(inputs.read(index, start, stop).mul_(share))
        return result

    return merged


def _about(inputs: Inputs, indexes: Sequence[int], shares: Sequence[float], origin: int | None) -> Merged:
    """The combination of differences from `origin`, added to it."""
    coefficients = dict(zip(indexes, shares, strict=True))
    if origin is not None:
        coefficients = {origin: 1.0 - sum(shares), **coefficients}
    return combined(inputs, coefficients)


def slerp(inputs: Inputs, settings: Settings) -> Merged:
    """Spherical interpolation from the base (t = 0) to the other: Shoemake 1985, "Animating rotation with quaternion curves".

    Linear where the two are nearly parallel (|cos| > 0.9995).
    """
    assert inputs.base is not None
    (other,), t = inputs.others, float(settings.shared["t"])
    dots = gram(inputs, [inputs.base, other])
    norms = [max(float(dots[i, i]), 0.0) ** 0.5 for i in (0, 1)]
    lengths = [norm if norm > 1e-8 else 1.0 for norm in norms]
    cosine = (dots[0, 1] / (lengths[0] * lengths[1])).clamp(-1, 1)
    first, second = _arc(float(cosine), t, parallel=abs(float(cosine)) > _PARALLEL)
    return combined(inputs, {inputs.base: first, other: second})


def _arc(cosine: float, t: float, *, parallel: bool) -> tuple[float, float]:
    if parallel:
        return 1 - t, t
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    sine = torch.sin(angle)
    return float(torch.sin((1 - t) * angle) / sine), float(torch.sin(t * angle) / sine)


def nuslerp(inputs: Inputs, settings: Settings) -> Merged:
    """SLERP by weights, of whole weights, of rows or of columns, and of differences where there is a base (mergekit 2024)."""
    one, other = inputs.others
    weights = settings.of("weight", [one, other])
    t = weights[1] / sum(weights)
    if settings.shared["nuslerp_flatten"] or len(inputs.shape) < 2:
        dots = gram(inputs, [one, other], inputs.base)
        return _about(inputs, [one, other], _nuslerp_shares(dots, t), inputs.base)
    if settings.shared["nuslerp_row_wise"]:
        return _by_column(inputs, one, other, t)
    return _by_row(inputs, one, other, t)


def _nuslerp_shares(dots: Tensor, t: float) -> tuple[float, float]:
    lengths = dots.diagonal().clamp(min=0).sqrt().clamp(min=1e-7)
    cosine = float((dots[0, 1] / (lengths[0] * lengths[1])).clamp(-1, 1))
    return _arc(cosine, t, parallel=1 - cosine**2 <= 1e-16)


def _arcs(cosine: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """`_arc` for many cosines at once."""
    parallel = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(parallel, 0, cosine))
    sine = torch.sin(angle)
    first = torch.where(parallel, 1 - t, torch.sin((1 - t) * angle) / sine)
    return first, torch.where(parallel, t, torch.sin(t * angle) / sine)


def _pair(inputs: Inputs, one: int, other: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of both, less the base's, and the base's."""
    left, right = (
        inputs.read(one, start, stop).view(-1, inputs.row),
        inputs.read(other, start, stop).view(-1, inputs.row),
    )
    if inputs.base is None:
        return left, right, None
    base = inputs.read(inputs.base, start, stop).view(-1, inputs.row)
    return left.sub_(base), right.sub_(base), base


def _by_row(inputs: Inputs, one: int, other: int, t: float) -> Merged:
    def merged(start: int, stop: int) -> Tensor:
        left, right, base = _pair(inputs, one, other, start, stop)
        lengths = left.norm(dim=-1).clamp_(min=1e-7) * right.norm(dim=-1).clamp_(min=1e-7)
        first, second = _arcs(((left * right).sum(-1) / lengths).clamp_(-1, 1).double(), t)
        result = left.mul_(first.float().unsqueeze(-1)).add_(right.mul_(second.float().unsqueeze(-1)))
        return (result if base is None else result.add_(base)).view(-1)

    return merged


def _by_column(inputs: Inputs, one: int, other: int, t: float) -> Merged:
    """Vectors along the first dimension, as mergekit's `nuslerp_row_wise` has it."""
    width = inputs.elements // inputs.shape[0]
    sums = _column_sums(inputs, one, other, width)
    lengths = sums[0].sqrt().clamp_(min=1e-7) * sums[1].sqrt().clamp_(min=1e-7)
    first, second = (share.float() for share in _arcs((sums[2] / lengths).clamp_(-1, 1), t))

    def merged(start: int, stop: int) -> Tensor:
        left, right, base = _pair(inputs, one, other, start, stop)
        columns = torch.arange(start, stop).remainder_(width)
        one_share, other_share = first[columns].to(left.device), second[columns].to(left.device)
        result = left.view(-1).mul_(one_share).add_(right.view(-1).mul_(other_share))
        return result if base is None else result.add_(base.view(-1))

    return merged


def _column_sums(inputs: Inputs, one: int, other: int, width: int) -> Tensor:
    """Sums of squares and products of both by column, [3, width] float64."""
    sums = torch.zeros(3, width, dtype=torch.float64)
    for start, stop in inputs.pieces():
        left, right, _ = _pair(inputs, one, other, start, stop)
        columns = torch.arange(start, stop).remainder_(width)
        for place, product in enumerate((left * left, right * right, left * right)):
            # By the processor: a GPU adds what falls on one column in an order that differs from run to run.
            sums[place].index_add_(0, columns, product.view(-1).double().cpu())
    return sums


def multislerp(inputs: Inputs, settings: Settings) -> Merged:
    """Barycentric interpolation on the sphere by way of the tangent space at the mean (Goddard 2024, "multislerp").

    Unit vectors u_i, m the unit of sum w_i u_i, tangents u_i - (u_i.m) m, exponential map back, times the mean length.
    """
    others = inputs.others
    if len(others) == 1:
        return combined(inputs, {others[0]: 1.0})
    weights, eps = torch.tensor(settings.of("weight", others), dtype=torch.float64), float(settings.shared["eps"])
    if settings.shared["normalize_weights"]:
        weights = weights / weights.sum()
    dots = gram(inputs, others, inputs.base)
    norms = dots.diagonal().clamp(min=0).sqrt()
    units = torch.diag(1 / (norms + eps))
    between = units @ dots @ units
    length = float((weights @ between @ weights).clamp(min=0).sqrt())
    if length < eps:
        if len(others) == 2:
            return _about(inputs, others, cast("list[float]", weights.tolist()), inputs.base)
        raise _cancels(inputs)
    # Coefficients over the unit vectors from here on.
    mean = weights / length
    along = between @ mean
    tangent = weights - (weights * along).sum() * mean
    angle = float((tangent @ between @ tangent).clamp(min=0).sqrt()) + eps
    cosine, sine = torch.tensor(angle, dtype=torch.float64).cos(), torch.tensor(angle, dtype=torch.float64).sin()
    shares = (mean * cosine + tangent * (sine / angle)) * (norms * weights).sum() @ units
    return _about(inputs, others, cast("list[float]", shares.tolist()), inputs.base)


def _cancels(inputs: Inputs) -> LtpError:
    return LtpError(
        ErrorCode.MERGE_FAILED,
        f"The weighted directions of {inputs.name} cancel out, so there is no mean direction.",
        "Change the weights: opposite vectors balance exactly.",
    )


def karcher(inputs: Inputs, settings: Settings) -> Merged:
    """The Karcher (Riemannian) mean of the directions, times the mean length: Grove and Karcher 1973; arXiv:2603.04972.

    Iterates m <- exp_m(mean of log_m(u_i)) until the step is below `tol`.
    """
    count = inputs.count
    if count == 1:
        return combined(inputs, {0: 1.0})
    tolerance, dots = float(settings.shared["tol"]), gram(inputs, range(count))
    norms = dots.diagonal().clamp(min=0).sqrt()
    valid = norms > tolerance
    if not bool(valid.any()):
        return combined(inputs, dict.fromkeys(range(count), 0.0))
    scale = torch.where(valid, 1 / norms.clamp(min=1e-300), 0)
    between = scale[:, None] * dots * scale[None, :]
    weights = valid.double() / valid.sum()
    mean = _unit(weights.clone(), between, tolerance, fallback=int(valid.nonzero()[0]))
    for _ in range(int(settings.shared["max_iter"])):
        step = _log_mean(mean, weights, between, tolerance)
        length = float((step @ between @ step).clamp(min=0).sqrt())
        if length < tolerance:
            break
        angle = torch.tensor(length, dtype=torch.float64)
        mean = _unit(angle.cos() * mean + angle.sin() / length * step, between, tolerance)
    shares = mean * scale * norms.mean()
    return combined(inputs, {index: float(shares[index]) for index in range(count)})


def _unit(vector: Tensor, between: Tensor, tolerance: float, fallback: int | None = None) -> Tensor:
    length = float((vector @ between @ vector).clamp(min=0).sqrt())
    if length > tolerance:
        return vector / length
    return vector if fallback is None else torch.nn.functional.one_hot(torch.tensor(fallback), len(vector)).double()


def _log_mean(mean: Tensor, weights: Tensor, between: Tensor, tolerance: float) -> Tensor:
    """The weighted mean of the tangent vectors at `mean` towards every unit vector, as coefficients."""
    step = torch.zeros_like(mean)
    cosines = (between @ mean).clamp(-1, 1)
    for index, weight in enumerate(cast("list[float]", weights.tolist())):
        angle = torch.acos(cosines[index])
        if weight and float(angle) >= tolerance:
            share = weight * angle / torch.sin(angle)
            step = step - share * cosines[index] * mean
            step[index] += share
    return step


def model_stock(inputs: Inputs, settings: Settings) -> Merged:
    """Towards the mean by as much as the fine-tuned models agree: Jang et al. 2024, "Model Stock" (arXiv:2403.19522).

    t = N cos / (1 + (N - 1) cos) with the mean cosine between the differences from the base.
    """
    assert inputs.base is not None
    base, others = inputs.base, inputs.others
    if settings.shared["filter_wise"]:
        return _stock_by_row(inputs, base, others)
    dots = gram(inputs, others, base)
    norms = dots.diagonal().clamp(min=0).sqrt()
    cosines = (dots / (norms[:, None] * norms[None, :]).clamp(min=1e-6)).clamp(-1, 1)
    upper = torch.triu_indices(len(others), len(others), 1)
    t = float(_stock_share(cosines[upper[0], upper[1]].mean(), len(others)))
    return combined(inputs, {base: 1 - t, **dict.fromkeys(others, t / len(others))})


def _stock_share(cosine: Tensor, count: int) -> Tensor:
    below = 1 + (count - 1) * cosine
    singular = below.abs() < 1e-6
    return torch.where(singular, 0, count * cosine / torch.where(singular, 1, below))


def _stock_by_row(inputs: Inputs, base: int, others: Sequence[int]) -> Merged:
    def merged(start: int, stop: int) -> Tensor:
        zero = inputs.read(base, start, stop).view(-1, inputs.row)
        offsets = [inputs.read(index, start, stop).view(-1, inputs.row).sub_(zero) for index in others]
        norms = [offset.norm(dim=-1) for offset in offsets]
        cosines = [
            ((offsets[i] * offsets[j]).sum(-1) / (norms[i] * norms[j]).clamp_(min=1e-6)).clamp_(-1, 1)
            for i in range(len(others))
            for j in range(i + 1, len(others))
        ]
        t = _stock_share(torch.stack(cosines).mean(0), len(others)).unsqueeze(-1)
        mean = torch.stack(offsets).sum(0).div_(len(others))
        return mean.mul_(t).add_(zero).view(-1)

    return merged
