"""What is to be evaluated and how: the model, the sampling, the scorer. Frozen with the request that carries it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ltp.contracts.values import Name, Ratio
from ltp.core.recipe import content_hash

PRESETS = {
    "openai": "https://api.openai.com/v1",
    "dashscope": "https://dashscope.aliyuncs.com/compatible-mode/v1",
}


class _Spec(BaseModel):
    # A misspelt key must be an error at the door, not a silent default.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Price(_Spec):
    """What an endpoint charges, per million tokens, in whatever currency the user counts in."""

    prompt: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)


class ApiModel(_Spec):
    """A model behind an OpenAI-compatible endpoint: `base_url` ends before `/chat/completions`."""

    kind: Literal["api"] = "api"
    name: str = Field(min_length=1, max_length=200)
    preset: Literal["openai", "dashscope"] | None = None
    base_url: str | None = None
    secret: Name | None = Field(default=None, description="Name of the stored secret that holds the key.")
    requests_per_minute: float | None = Field(default=None, gt=0)
    max_concurrency: int = Field(default=64, ge=1, le=1024)
    request_seconds: float = Field(default=120.0, gt=0, le=3600)
    price: Price | None = None

    @model_validator(mode="after")
    def _knows_where(self) -> ApiModel:
        if (self.base_url is None) == (self.preset is None):
            raise ValueError("an api model needs either 'base_url' or 'preset'")
        return self

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("base_url must start with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url must not carry a key, a query or a fragment; name a stored secret instead")
        return url.rstrip("/")

    @property
    def url(self) -> str:
        """Where requests go, without `/chat/completions`."""
        return self.base_url or PRESETS[self.preset or "openai"]


class LocalModel(_Spec):
    """A model directory on the evaluator's machine, in Hugging Face format; with a LoRA adapter if one is named.

    `path` may itself be an adapter's directory, whose configuration names its base.
    """

    kind: Literal["local_model"] = "local_model"
    path: str = Field(min_length=1)
    adapter: str | None = Field(default=None, min_length=1)


class CheckpointModel(_Spec):
    """A training checkpoint; it is evaluated once it is exported."""

    kind: Literal["checkpoint"] = "checkpoint"
    checkpoint_id: UUID


ModelUnderTest = Annotated[ApiModel | LocalModel | CheckpointModel, Field(discriminator="kind")]


class Sampling(_Spec):
    """How answers are drawn. `samples` > 1 draws several for each prompt, for pass@k."""

    max_new_tokens: int = Field(default=256, gt=0, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    samples: int = Field(default=1, ge=1, le=256)
    stop: tuple[str, ...] = Field(default=(), max_length=4)
    system: str | None = None
    turns: Literal["given", "generated"] = Field(
        default="given", description="generated: earlier assistant turns of a prompt are answered anew, one by one."
    )

    def signature(self) -> dict[str, Any]:
        """What decides an answer, apart from the prompt; `samples` only says how many there are."""
        return self.model_dump(mode="json", exclude={"samples"})


class PlainScorer(_Spec):
    """A rule without settings.

    `exact`: same text, case and white space aside. `normalised`: also without articles and punctuation. `math`: equal as mathematics (needs the extra `scorers`).
    """

    name: Literal["exact", "normalised", "math"]


class NumericScorer(_Spec):
    """The last number of the answer against the last of the reference."""

    name: Literal["numeric"] = "numeric"
    relative: float = Field(default=1e-6, ge=0, lt=1)
    absolute: float = Field(default=1e-9, ge=0)


class ChoiceScorer(_Spec):
    """A letter out of `letters`. An answer that names none is unparsable, not wrong in silence."""

    name: Literal["choice"] = "choice"
    letters: str = Field(default="ABCDEFGHIJ", min_length=2, max_length=26, pattern=r"^[A-Z]+$")


class RegexScorer(_Spec):
    """`pattern` takes a part out of the answer (its first group, else all it matches), compared with the reference."""

    name: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=2000)
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class CodeScorer(_Spec):
    """Python code out of the answer, run against the reference, which is Python that asserts, in a sandbox."""

    name: Literal["code"] = "code"
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    memory_bytes: int = Field(default=512 << 20, ge=64 << 20)


class FunctionScorer(_Spec):
    """`score(response, reference, row) -> bool | float` out of DATA/scorers/<file>.py, run in a sandbox."""

    name: Literal["function"] = "function"
    file: Name
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)


class SimilarityScorer(_Spec):
    """Cosine similarity of the embeddings of answer and reference; right from `threshold` on."""

    name: Literal["similarity"] = "similarity"
    model: Annotated[ApiModel | LocalModel, Field(discriminator="kind")]
    threshold: Ratio = 0.8


class LikelihoodScorer(_Spec):
    """The probability that the model itself gives to the reference; nothing is generated."""

    name: Literal["likelihood"] = "likelihood"


class JudgeScorer(_Spec):
    """Another model says whether the answer is as good as the reference, asked in both orders of the two."""

    name: Literal["judge"] = "judge"
    model: Annotated[ApiModel | LocalModel, Field(discriminator="kind")]
    instructions: str = Field(default="", max_length=4000)
    both_orders: bool = True
    max_new_tokens: int = Field(default=256, gt=0, le=16_384)


ScorerSpec = Annotated[
    PlainScorer
    | NumericScorer
    | ChoiceScorer
    | RegexScorer
    | CodeScorer
    | FunctionScorer
    | SimilarityScorer
    | LikelihoodScorer
    | JudgeScorer,
    Field(discriminator="name"),
]


class StopRule(_Spec):
    """End early once the answer is known, by tests that stay valid however often one looks."""

    # Stop when the accuracy is surely above or below this.
    accuracy: Ratio | None = None
    # Stop when this earlier evaluation is surely beaten, or surely beats this one.
    baseline_id: UUID | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    min_rows: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _one_question(self) -> StopRule:
        if (self.accuracy is None) == (self.baseline_id is None):
            raise ValueError("a stop rule needs either 'accuracy' or 'baseline_id'")
        return self


class RunSpec(_Spec):
    """How a model is evaluated, whatever the model."""

    sampling: Sampling = Sampling()
    scorer: ScorerSpec = PlainScorer(name="exact")
    max_rows: int = Field(default=1000, gt=0, le=1_000_000)
    concurrency: int | None = Field(default=None, ge=1, le=1024)
    stop: StopRule | None = None
    reuse: bool = Field(default=True, description="Take answers that are stored for the same model, prompt, sampling.")

    @field_validator("scorer", mode="before")
    @classmethod
    def _named(cls, scorer: Any) -> Any:
        return {"name": scorer} if isinstance(scorer, str) else scorer

    def hash(self) -> str:
        """Equal for runs whose answers and scores may be compared: sampling, scorer, not the number of rows."""
        return content_hash(self.model_dump(mode="json", include={"sampling", "scorer"}))
