"""How much of each checkpoint goes into an average, and which checkpoints a greedy soup keeps. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One question of a greedy soup: these members together, their loss, and whether the newest of them stays."""

    members: tuple[int, ...]
    loss: float
    kept: bool


def ema_weights(count: int, decay: float) -> list[float]:
    """Shares of an exponential moving average over checkpoints, oldest first: e_i = d e_(i-1) + (1 - d) x_i, e_0 = x_0.

    Polyak and Juditsky 1992; over checkpoints as in Morales-Brotons et al. 2024 (arXiv:2411.18704). They sum to 1.
    """
    return [decay ** (count - 1)] + [(1 - decay) * decay ** (count - 1 - index) for index in range(1, count)]


def first_out_of_order(steps: Sequence[int | None]) -> int | None:
    """The place of the first step that is not above the one before it; steps that are not known are passed over."""
    last: int | None = None
    for place, step in enumerate(steps):
        if step is not None:
            if last is not None and step <= last:
                return place
            last = step
    return None


def greedy_soup(losses: Sequence[float], loss_of: Callable[[tuple[int, ...]], float]) -> tuple[list[int], list[Trial]]:
    """Members of a greedy soup, and every trial: Wortsman et al. 2022, "Model soups" (arXiv:2203.05482), recipe 1.

    `losses` order the ingredients (lower is better, a loss that is not finite is never tried); `loss_of` measures the mean of
    several on held-out data. An ingredient stays if the loss does not rise. Raises ValueError when no loss is finite.
    """
    order = sorted((i for i, loss in enumerate(losses) if math.isfinite(loss)), key=lambda i: (losses[i], i))
    if not order:
        raise ValueError("no ingredient has a finite loss")
    members, best = [order[0]], loss_of((order[0],))
    trials = [Trial((order[0],), best, math.isfinite(best))]
    for index in order[1:]:
        candidate = (*members, index)
        loss = loss_of(candidate)
        # Written so that NaN is no improvement, and a first member without a finite loss is none to keep to.
        kept = loss <= best or (math.isfinite(loss) and not math.isfinite(best))
        trials.append(Trial(candidate, loss, kept))
        if kept:
            members, best = list(candidate), loss
    return members, trials
