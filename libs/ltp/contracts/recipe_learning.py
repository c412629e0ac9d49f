"""The sections of a recipe that say how an algorithm learns: from generated responses, from pairs, with a critic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ltp.contracts.recipe_reward import Reward
from ltp.contracts.section import MAY_GROW, Section
from ltp.core.algorithms import ESTIMATORS, ESTIMATORS_V0, LOSS_MODES, Aggregation
from ltp.core.nearest import or_nearest


class Reinforcement(Section):
    """Settings of the algorithms that generate and score responses. What is left out is as the algorithm's authors have it."""

    samples_per_prompt: int = Field(
        default=8,
        ge=1,
        description="Responses per prompt: the group of GRPO and its kin, of 2 or more.",
        json_schema_extra=MAY_GROW,
    )
    max_response_length: int = Field(default=128, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    scorer: Literal["exact", "numeric"] = Field(default="exact", description="The reward, unless `reward` says more.")
    reward: Reward | None = None
    mini_batch_size: int | None = Field(default=None, gt=0, description="Prompts per update; left out: all of a step.")
    epochs: int = Field(default=1, gt=0, le=100, description="Passes over the responses of a step.")
    estimator: str | None = Field(default=None, description="verl's advantage estimator, in place of the algorithm's.")
    policy_loss: str | None = Field(default=None, description="verl's policy loss, in place of the algorithm's.")
    loss_aggregation: Aggregation | None = None
    clip_low: float | None = Field(default=None, gt=0)
    clip_high: float | None = Field(default=None, gt=0)
    clip_c: float | None = Field(default=None, gt=1)
    normalise_advantage: bool | None = Field(default=None, description="Divide a group's advantages by their spread.")
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=1.0, ge=0, le=1)
    entropy_coefficient: float = Field(default=0.0, ge=0)
    kl_loss_coefficient: float = Field(
        default=0.0, ge=0, description="Weight of the distance to the base model in the loss; 0 needs no reference."
    )
    kl_reward_coefficient: float = Field(default=0.0, ge=0, description="The same distance, taken off the reward.")
    dynamic_sampling: bool | None = Field(
        default=None, description="Draw anew for prompts whose responses are all right or all wrong (DAPO)."
    )
    overlong_buffer: int | None = Field(
        default=None, gt=0, description="Tokens before max_response_length within which length costs reward (DAPO)."
    )
    overlong_penalty: float = Field(default=1.0, ge=0, description="What a response of full length loses.")

    @field_validator("estimator")
    @classmethod
    def _estimator_exists(cls, name: str | None) -> str | None:
        if name in ESTIMATORS_V0:
            raise ValueError(f"verl's default trainer cannot feed the estimator {name}; choose another")
        return _named("estimator", name, ESTIMATORS)

    @field_validator("policy_loss")
    @classmethod
    def _loss_exists(cls, name: str | None) -> str | None:
        return _named("policy loss", name, LOSS_MODES)


class Preference(Section):
    """Settings of direct preference optimization (R. Rafailov et al. 2023, arXiv:2305.18290)."""

    beta: float = Field(default=0.1, gt=0, le=100, description="How much staying near the reference counts.")
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        default="sigmoid", description="hinge: SLiC (arXiv:2305.10425); ipo: arXiv:2310.12036."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Share of pairs taken to be the wrong way round (sigmoid only)."
    )

    @field_validator("label_smoothing")
    @classmethod
    def _only_sigmoid_is_smoothed(cls, value: float, info: object) -> float:
        if value and getattr(info, "data", {}).get("loss") != "sigmoid":
            raise ValueError("only the loss 'sigmoid' can be smoothed; leave label_smoothing out")
        return value


class Critic(Section):
    """The value model of PPO."""

    model: str | None = Field(
        default=None, min_length=1, description="Directory of a model; left out: the one trained."
    )
    learning_rate: float = Field(default=1e-5, gt=0, lt=1)
    warmup_steps: int = Field(default=0, ge=0, description="First steps in which the critic alone learns.")
    lora_rank: int = Field(default=0, ge=0)

    @field_validator("lora_rank")
    @classmethod
    def _no_adapters(cls, rank: int) -> int:
        if rank:
            text = (
                "a critic is trained whole: its value head is new, and adapters on a frozen random head learn nothing"
            )
            raise ValueError(f"{text}; set critic.lora_rank to 0 (training.lora_rank may stay)")
        return rank


def _named(what: str, name: str | None, known: frozenset[str]) -> str | None:
    if name is not None and name not in known:
        raise ValueError(f"verl has no {what} {name!r}{or_nearest(name, known)}")
    return name
