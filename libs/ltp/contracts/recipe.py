"""The recipe: what to train. A user writes it as YAML; once submitted it is immutable and known by its content hash."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ltp.contracts.gate import Gate
from ltp.contracts.values import Name, Ratio, Sha256
from ltp.core.recipe import content_hash

_MOST = 2**31 - 1


class _Section(BaseModel):
    # A misspelt key must be an error at the door, not a silent default.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, defer_build=True)

    @model_validator(mode="after")
    def _no_number_is_absurd(self) -> Self:
        # A validator and no bound of the schema's: bounds of a released event may not change.
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > _MOST:
                raise ValueError(f"{name} is {value:.3g}, and no training has more than {_MOST:,}")
        return self


class ModelSource(_Section):
    """The model to start from."""

    path: str = Field(min_length=1, description="Directory with config.json, tokenizer and safetensors.")


class DatasetSource(_Section):
    """The dataset to learn from. `version` is filled in at submission when left out, and never changes after."""

    name: Name
    version: Sha256 | None = None
    train_split: str = "train"


class Training(_Section):
    """Hyper-parameters that every algorithm shares."""

    steps: int = Field(gt=0, le=10_000_000)
    batch_size: int = Field(gt=0, description="Sequences (SFT) or prompts (RL) per optimizer step, over all devices.")
    learning_rate: float = Field(gt=0, lt=1)
    max_length: int = Field(default=1024, ge=8, description="Tokens per sequence: prompt and response together.")
    warmup_ratio: Ratio = 0.0
    lr_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=1, ge=0)
    save_every: int | None = Field(
        default=None, gt=0, description="Steps between checkpoints; the last is always saved."
    )
    validate_every: int | None = Field(
        default=None, gt=0, description="Steps between held-out losses; else at each save."
    )
    lora_rank: int = Field(default=0, ge=0, le=512, description="0 trains all weights.")


class Reinforcement(_Section):
    """Settings of the algorithms that generate and score responses (GRPO)."""

    samples_per_prompt: int = Field(default=8, ge=2, description="Responses per prompt: the group of GRPO.")
    max_response_length: int = Field(default=128, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    scorer: Literal["exact", "numeric"] = "exact"


class Resources(_Section):
    """What to run on. `auto` takes a GPU where the host has one."""

    device_kind: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, gt=0, description="Devices in all, over all hosts.")
    hosts: int = Field(default=1, gt=0, description="Hosts to spread the devices over, the same number on each.")
    labels: dict[str, str] = Field(default_factory=dict[str, str], description="Labels a host must have.")
    micro_batch_size: int | None = Field(default=None, gt=0, description="Left out, the planner chooses.")
    time_limit_seconds: float | None = Field(default=None, gt=0)
    max_devices: int | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="The planner may take from `devices` up to so many; left out, exactly `devices`.",
    )
    objective: Literal["throughput", "cost", "fewest-gpus", "headroom"] | None = Field(
        default=None,
        description="What the best plan is best at. Left out: the smallest device that is enough, used fast.",
    )
    budget_dollars: float | None = Field(default=None, gt=0, description="Plans predicted to cost more are refused.")
    deadline_seconds: float | None = Field(
        default=None, gt=0, description="Plans predicted to train longer are refused."
    )


class EvaluationSpec(_Section):
    """Score the base and the trained model on held-out rows, and compare them sample by sample."""

    split: str = "test"
    scorer: Literal["exact", "numeric"] = "exact"
    max_rows: int = Field(default=100, gt=0)
    max_new_tokens: int = Field(default=64, gt=0)
    checkpoints: Literal["final", "every"] = Field(
        default="final", description="Which checkpoints are evaluated: the last one, or each as it is exported."
    )
    gate: Gate | None = Field(default=None, description="When a checkpoint may be promoted; asked of each evaluated.")


class Recipe(_Section):
    """What to train, how, on what, and how to judge it."""

    name: Name
    algorithm: Literal["sft", "grpo"] = "sft"
    model: ModelSource
    dataset: DatasetSource
    training: Training
    reinforcement: Reinforcement | None = None
    resources: Resources = Resources()
    evaluation: EvaluationSpec | None = None

    @model_validator(mode="after")
    def _algorithm_has_its_section(self) -> Recipe:
        if self.algorithm == "grpo" and self.reinforcement is None:
            raise ValueError("algorithm grpo needs a section 'reinforcement' (it may be empty: 'reinforcement: {}')")
        if self.algorithm == "sft" and self.reinforcement is not None:
            raise ValueError("section 'reinforcement' has no meaning for algorithm sft; remove it")
        return self

    def settings(self) -> dict[str, Any]:
        """The recipe as plain JSON values, defaults spelt out."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """The content hash: equal for equal settings."""
        return content_hash(self.settings())


RecipeHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
