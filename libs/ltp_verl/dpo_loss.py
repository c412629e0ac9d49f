"""The loss of direct preference optimization over pairs of sequences, and the numbers it is watched by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from verl.utils import tensordict_utils

_COUNT = "dpo/pairs"


@dataclass(frozen=True)
class Rule:
    """What a pair costs, as a function of the margin between its implicit rewards."""

    beta: float
    loss: str = "sigmoid"
    label_smoothing: float = 0.0

    def of(self, difference: torch.Tensor) -> torch.Tensor:
        """Loss of each pair; `difference` is the log-ratio of the chosen answer less that of the rejected, (pairs,).

        sigmoid: R. Rafailov et al. 2023, eq. 7, smoothed as in E. Mitchell's note on conservative DPO (2023);
        hinge: Y. Zhao et al. 2023 (SLiC); ipo: M. G. Azar et al. 2023, eq. 17.
        """
        margin = self.beta * difference
        if self.loss == "hinge":
            return functional.relu(1 - margin)
        if self.loss == "ipo":
            return (difference - 1 / (2 * self.beta)) ** 2
        right, wrong = -functional.logsigmoid(margin), -functional.logsigmoid(-margin)
        return (1 - self.label_smoothing) * right + self.label_smoothing * wrong


def sequence_log_probs(log_probs: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Sum over each sequence's trained tokens; both are nested (sequences, tokens), the result is (sequences,).

    `log_probs` at a position are those of the token after it, so the mask moves one to the left, as in verl's sft_loss.
    """
    lengths = log_probs.offsets().diff()  # pyright: ignore[reportAttributeAccessIssue] # nested tensors have it
    kept = log_probs.values() * torch.roll(loss_mask.values(), shifts=-1, dims=0)
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=kept.device), lengths)
    return torch.zeros(len(lengths), dtype=kept.dtype, device=kept.device).index_add(0, owners, kept)


def pair_loss(
    model_output: Mapping[str, torch.Tensor], data: Any, dp_group: Any = None, *, rule: Rule, pairs: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """A micro batch's share of the mean over the `pairs` of a step, with sums for `averaged`.

    The engine adds micro batches up and averages over replicas, hence the factor `dp_size`.
    """
    mine = sequence_log_probs(model_output["log_probs"], data["loss_mask"])
    reference = sequence_log_probs(data["reference_log_probs"], data["loss_mask"]).to(mine.dtype)
    ratio = mine - reference
    difference = ratio[0::2] - ratio[1::2]
    loss = rule.of(difference).sum() / pairs * data["dp_size"]
    sums = {
        "dpo/accuracy": (difference > 0).sum(),
        "dpo/reward_margin": rule.beta * difference.sum(),
        "dpo/reward_chosen": rule.beta * ratio[0::2].sum(),
        "dpo/reward_rejected": rule.beta * ratio[1::2].sum(),
        "dpo/logp_chosen": mine[0::2].sum(),
        "dpo/logp_rejected": mine[1::2].sum(),
    }
    return loss, {**{name: float(value.detach()) for name, value in sums.items()}, _COUNT: float(len(difference))}


def averaged(output: Any) -> Any:
    """The worker's answer with means over all pairs in the place of one sum for each micro batch and replica."""
    metrics: dict[str, Any] | None = None if output is None else tensordict_utils.get(output, "metrics")
    if metrics is None or _COUNT not in metrics:
        return output
    count = _total(metrics.pop(_COUNT))
    for name in [name for name in metrics if name.startswith("dpo/")]:
        metrics[name] = _total(metrics[name]) / count
    return output


def _total(value: Any) -> float:
    return sum(map(_total, value)) if isinstance(value, list) else float(value)
