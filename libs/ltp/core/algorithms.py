"""The algorithms by name, each as a choice of verl's estimator and loss with the settings its authors published.

The names and values follow verl 0.9.1's examples (verl.md §1.2); a recipe's `reinforcement` may differ in every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Algorithm = Literal[
    "sft", "grpo", "ppo", "gspo", "dpo",
    "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "dapo", "dr_grpo", "cispo", "gpg", "opo", "gmpo", "sapo",
]  # fmt: skip
Family = Literal["sft", "dpo", "rl"]
Aggregation = Literal["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


@dataclass(frozen=True)
class Preset:
    """One algorithm of reinforcement learning in verl's words; None leaves verl's own value."""

    estimator: str = "grpo"
    policy_loss: str = "vanilla"
    loss_aggregation: Aggregation = "token-mean"
    clip_low: float | None = None
    clip_high: float | None = None
    clip_c: float | None = None
    # Divide the advantages of a group by their spread.
    normalise_advantage: bool = True
    dynamic_sampling: bool = False


_GSPO = Preset(policy_loss="gspo", loss_aggregation="seq-mean-token-mean", clip_low=3e-4, clip_high=4e-4, clip_c=10.0)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # J. Schulman et al. 2017, arXiv:1707.06347, with generalized advantages and a critic.
        "ppo": Preset(estimator="gae"),
        # Z. Shao et al. 2024, arXiv:2402.03300.
        "grpo": Preset(),
        # C. Zheng et al. 2025, arXiv:2507.18071: ratio and clipping of whole sequences.
        "gspo": _GSPO,
        # A. Ahmadian et al. 2024, arXiv:2402.14740.
        "rloo": Preset(estimator="rloo"),
        # J. Hu 2025, arXiv:2501.03262.
        "reinforce_plus_plus": Preset(estimator="reinforce_plus_plus"),
        "reinforce_plus_plus_baseline": Preset(estimator="reinforce_plus_plus_baseline"),
        # Q. Yu et al. 2025, arXiv:2503.14476: clip higher, token mean, prompts of one outcome drawn anew.
        "dapo": Preset(clip_low=0.2, clip_high=0.28, dynamic_sampling=True),
        # Z. Liu et al. 2025, arXiv:2503.20783: no division by length or by spread.
        "dr_grpo": Preset(loss_aggregation="seq-mean-token-sum-norm", normalise_advantage=False),
        # MiniMax 2025, arXiv:2506.13585.
        "cispo": Preset(policy_loss="cispo", clip_low=10.0, clip_high=0.2),
        # X. Chu et al. 2025, arXiv:2504.02546.
        "gpg": Preset(estimator="gpg", policy_loss="gpg"),
        # Y. Hao et al. 2025, arXiv:2505.23585.
        "opo": Preset(estimator="opo"),
        # Y. Zhao et al. 2025, arXiv:2507.20673: the geometric mean of the ratios.
        "gmpo": Preset(policy_loss="geo_mean", loss_aggregation="seq-mean-token-mean", clip_low=0.4, clip_high=0.4),
        # C. Gao et al. 2025, arXiv:2511.20347.
        "sapo": Preset(policy_loss="sapo", loss_aggregation="seq-mean-token-mean"),
    }
)

# Their advantage compares the responses to one prompt; a single one has nothing to be compared with.
GROUPED = frozenset(PRESETS) - {"ppo", "reinforce_plus_plus"}

# What verl 0.9.1 registers and its default trainer can feed; a test holds both against the installed verl.
ESTIMATORS = frozenset(
    [
        "gae", "grpo", "grpo_vectorized", "grpo_passk", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "rloo",
        "rloo_vectorized", "opo", "gpg",
    ]
)  # fmt: skip
# These need columns that the default trainer does not fetch (verl.md §1.2).
ESTIMATORS_V0 = frozenset({"remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline"})
LOSS_MODES = frozenset(
    [
        "vanilla", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "cispo", "dppo_tv", "dppo_kl", "dro",
        "bypass_mode",
    ]
)  # fmt: skip


def family_of(algorithm: str) -> Family:
    """How it learns: from answers (sft), from pairs of answers (dpo), from rewards (rl)."""
    if algorithm in {"sft", "dpo"}:
        return "sft" if algorithm == "sft" else "dpo"
    return "rl"
