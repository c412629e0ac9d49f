"""Where the reward of a response comes from: a rule, a function of the user's, a model, or a service."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ltp.contracts.section import Section

# It travels in the environment of a process, where Linux allows 128 KiB a variable.
MOST_SOURCE = 60_000
_URL = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[^\s#]*)?")


class VerifierReward(Section):
    """A rule that compares the response with the row's answer: 1 where it holds, else 0."""

    kind: Literal["verifier"]
    verifier: Literal["exact", "numeric", "normalised", "choice", "regex", "math", "code"] = "exact"
    pattern: str | None = Field(
        default=None, max_length=2000, description="regex: its first group, or the whole match, is compared."
    )
    ignore_case: bool = True
    letters: str = Field(default="ABCD", pattern=r"^[A-Z]{2,26}$", description="choice: the letters to choose from.")
    timeout_seconds: float = Field(default=10.0, gt=0, le=600)

    @model_validator(mode="after")
    def _pattern_belongs_to_regex(self) -> VerifierReward:
        if (self.pattern is None) == (self.verifier == "regex"):
            text = "verifier regex needs a pattern" if self.pattern is None else "only verifier regex has a pattern"
            raise ValueError(text)
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
        return self


class FunctionReward(Section):
    """A function of the user's, called as verl calls one: `f(data_source, solution_str, ground_truth, extra_info)`.

    It runs in a process of its own without network and with a read-only disk, and is cut off after `timeout_seconds`.
    """

    kind: Literal["function"]
    file: str = Field(min_length=1, max_length=1000, description="Python file under DATA/rewards or LTP_REWARD_ROOTS.")
    function: str = Field(default="compute_score", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    # Filled in at submission, so that a job is rewarded by what was tried at the door, whatever becomes of the file.
    source: str | None = Field(default=None, max_length=MOST_SOURCE)


class ModelReward(Section):
    """A sequence-classification model with one output, asked with the whole conversation under its own chat template."""

    kind: Literal["model"]
    model: str = Field(min_length=1, max_length=1000, description="Directory with config.json, tokenizer, safetensors.")
    max_length: int = Field(default=2048, ge=8, description="Tokens; a longer conversation loses its beginning.")


class HttpReward(Section):
    """A service that answers POST {prompt, response, answer, data_source, extra_info} with {"score": number}."""

    kind: Literal["http"]
    url: str = Field(max_length=2000)
    timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    retries: int = Field(default=3, ge=0, le=20)
    allow_link_local: bool = Field(
        default=False,
        description="Link-local and metadata addresses (169.254.0.0/16, fe80::/10) are refused otherwise.",
    )

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError("must be http://HOST[:PORT]/PATH or https://, without user, password or fragment")
        return url


Reward = Annotated[VerifierReward | FunctionReward | ModelReward | HttpReward, Field(discriminator="kind")]
