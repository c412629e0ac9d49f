"""The requests this server understands, and OpenAI's form of an error. What it cannot honour it refuses by name."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Parameters that would change the answer; ignoring one silently would be a lie.
_UNSUPPORTED = ("tools", "functions", "logprobs", "top_logprobs", "response_format", "logit_bias", "best_of")


class ApiError(Exception):
    """An error on its way to the client in OpenAI's form."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class StreamOptions(BaseModel):
    """Extras of a stream."""

    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = None
    n: Literal[1] = 1
    stop: str | list[str] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer; they are no part of it."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in found if text)

    @model_validator(mode="after")
    def _nothing_unsupported(self) -> _Request:
        given = [name for name in _UNSUPPORTED if (self.model_extra or {}).get(name)]
        if given:
            raise ValueError(f"this server does not support: {', '.join(given)}")
        return self


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    # OpenAI's newer name of max_tokens.
    max_completion_tokens: int | None = Field(default=None, gt=0)


class CompletionRequest(_Request):
    """POST /v1/completions: one prompt or several, as text or tokens, answered whole. `echo` with `logprobs` scores them."""

    prompt: str | list[int] | list[str] | list[list[int]] = Field(min_length=1)
    max_tokens: int = Field(default=16, ge=0)
    stream: Literal[False] = False
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [cast(list[int], self.prompt)]
        return cast(list[str | list[int]], self.prompt)


class TokenizeRequest(BaseModel):
    """POST /tokenize, as vLLM has it: a text, or a conversation through the model's template."""

    model_config = ConfigDict(extra="ignore")

    model: str
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[str] = Field(min_length=1)


class AdapterRequest(BaseModel):
    """POST /v1/load_lora_adapter, as vLLM has it."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)
