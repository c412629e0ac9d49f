"""The recipe: what to train. A user writes it as YAML; once submitted it is immutable and known by its content hash."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ltp.contracts.gate import Gate
from ltp.contracts.recipe_learning import Critic, Preference, Reinforcement
from ltp.contracts.section import MAY_GROW, Section
from ltp.contracts.values import Name, Ratio, Sha256
from ltp.core.algorithms import GROUPED, Algorithm, family_of
from ltp.core.recipe import content_hash


class ModelSource(Section):
    """The model to start from."""

    path: str = Field(min_length=1, description="Directory with config.json, tokenizer and safetensors.")


class DatasetSource(Section):
    """The dataset to learn from. `version` is filled in at submission when left out, and never changes after."""

    name: Name
    version: Sha256 | None = None
    train_split: str = "train"


class Training(Section):
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


class Resources(Section):
    """What to run on. `auto` takes a GPU where the host has one."""

    device_kind: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, gt=0, description="Devices in all, over all hosts.")
    hosts: int = Field(default=1, gt=0, description="Hosts to spread the devices over, the same number on each.")
    labels: dict[str, str] = Field(default_factory=dict[str, str], description="Labels a host must have.")
    micro_batch_size: int | None = Field(default=None, gt=0, description="Left out, the planner chooses.")
    time_limit_seconds: float | None = Field(default=None, gt=0)
    stall_limit_seconds: float | None = Field(
        default=None,
        gt=0,
        description="End an attempt that logged no metrics for so long. Left out, it is marked stalled and left to run.",
    )
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


class EvaluationSpec(Section):
    """Score the base and the trained model on held-out rows, and compare them sample by sample."""

    split: str = "test"
    scorer: Literal["exact", "numeric"] = "exact"
    max_rows: int = Field(default=100, gt=0)
    max_new_tokens: int = Field(default=64, gt=0)
    checkpoints: Literal["final", "every"] = Field(
        default="final", description="Which checkpoints are evaluated: the last one, or each as it is exported."
    )
    gate: Gate | None = Field(default=None, description="When a checkpoint may be promoted; asked of each evaluated.")


class Checkpoints(Section):
    """Which checkpoints stay on the disk. The newest one, and those that are pinned or in use, always do."""

    keep_last: int | None = Field(default=None, gt=0, description="The newest ones that stay; left out, all do.")
    keep_best: int | None = Field(default=None, gt=0, description="And the best ones by `metric`.")
    metric: str = Field(default="val/loss", min_length=1, max_length=200)
    direction: Literal["min", "max"] = "min"

    @model_validator(mode="after")
    def _best_needs_last(self) -> Checkpoints:
        if self.keep_best is not None and self.keep_last is None:
            raise ValueError("keep_best says what stays beside the last ones: set keep_last too")
        return self


Sink = Literal["tensorboard", "mlflow", "wandb"]
Override = Annotated[str, Field(min_length=1, max_length=10_000)]


class Recipe(Section):
    """What to train, how, on what, and how to judge it."""

    name: Name
    algorithm: Algorithm = Field(default="sft", json_schema_extra=MAY_GROW)
    model: ModelSource
    dataset: DatasetSource
    training: Training
    reinforcement: Reinforcement | None = None
    resources: Resources = Resources()
    evaluation: EvaluationSpec | None = None
    preference: Preference | None = None
    critic: Critic | None = None
    checkpoints: Checkpoints | None = Field(default=None, description="Left out, every checkpoint stays.")
    tracking: list[Sink] = Field(
        default_factory=list[Sink],
        max_length=3,
        description="Further places where metrics are written, beside the run on its host; none of them is called over a network.",
        json_schema_extra=MAY_GROW,
    )
    overrides: list[Override] = Field(
        default_factory=list[str],
        max_length=200,
        description="Further keys of verl's own configuration, in Hydra's grammar: `a.b=1`, `+a.c=x`, `~a.d`.",
    )

    @model_validator(mode="after")
    def _algorithm_has_its_sections(self) -> Recipe:
        family = family_of(self.algorithm)
        if family == "rl" and self.reinforcement is None:
            text = "needs a section 'reinforcement' (it may be empty: 'reinforcement: {}')"
            raise ValueError(f"algorithm {self.algorithm} {text}")
        for name, owner in (("reinforcement", "rl"), ("preference", "dpo")):
            if getattr(self, name) is not None and family != owner:
                raise ValueError(f"section '{name}' has no meaning for algorithm {self.algorithm}; remove it")
        if self.critic is not None and self.algorithm != "ppo":
            raise ValueError(f"algorithm {self.algorithm} has no critic; remove the section, or choose algorithm ppo")
        return self

    @model_validator(mode="after")
    def _each_sink_once(self) -> Recipe:
        if len(set(self.tracking)) < len(self.tracking):
            raise ValueError("tracking names a sink twice")
        return self

    @model_validator(mode="after")
    def _groups_are_groups(self) -> Recipe:
        section = self.reinforcement
        if section is not None and section.samples_per_prompt < 2 and self.algorithm in GROUPED:
            text = (
                f"algorithm {self.algorithm} compares the responses to a prompt with each other, and one has no other"
            )
            raise ValueError(f"{text}: set reinforcement.samples_per_prompt to 2 or more")
        mini = section and section.mini_batch_size
        if mini and self.training.batch_size % mini:
            what = f"training.batch_size {self.training.batch_size} is no multiple of"
            raise ValueError(f"{what} reinforcement.mini_batch_size {mini}")
        if section is not None and (section.overlong_buffer or 0) >= section.max_response_length:
            raise ValueError("reinforcement.overlong_buffer must be shorter than max_response_length")
        return self

    def settings(self) -> dict[str, Any]:
        """The recipe as plain JSON values, defaults spelt out."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """The content hash: equal for equal settings."""
        return content_hash(self.settings())


RecipeHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
