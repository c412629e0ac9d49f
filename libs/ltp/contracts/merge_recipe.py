"""A merge as a person writes it: mergekit's YAML, key for key, checked before any model is opened."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ltp.core.merging import METHODS, Fault, settings_faults

DType = Annotated[
    Literal["bfloat16", "float16", "float32"],
    # mergekit's spelling of the same.
    BeforeValidator(lambda value: str(value).removeprefix("torch.") if isinstance(value, str) else value),
]
# A directory, or `directory+adapter` for a model with a LoRA adapter merged in.
ModelRef = Annotated[str, BeforeValidator(lambda value: _model_text(value)), Field(min_length=1)]
# name -> number, gradient, or rules with filters; ltp.core.merging checks and evaluates them.
Settings = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class InputModel(_Part):
    """A model to merge."""

    model: ModelRef
    parameters: Settings | None = None


class InputSlice(_Part):
    """Layers `[first, last)` of a model."""

    model: ModelRef
    layer_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    parameters: Settings | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.layer_range[0] >= self.layer_range[1]:
            raise ValueError(f"layer_range {list(self.layer_range)} holds no layer")
        return self


class OutputSlice(_Part):
    """Consecutive layers of the result, each merged from the same place of every source."""

    sources: Annotated[list[InputSlice], Field(min_length=1)]
    base_model: ModelRef | None = None
    parameters: Settings | None = None


class TokenSource(_Part):
    """Where the embedding of a token comes from: a token of a model, or zeros."""

    kind: Literal["model_token", "zero"]
    model: ModelRef | None = None
    token_id: Annotated[int, Field(ge=0)] | None = None
    token: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.kind == "model_token" and (self.model is None or (self.token_id is None) == (self.token is None)):
            raise ValueError("a model_token names a model, and one of token and token_id")
        return self


class TokenRule(_Part):
    """How one token's embedding is chosen; `force` also where a model has the token."""

    source: TokenSource | ModelRef | None = None
    force: bool = False


class TokenizerRule(_Part):
    """The result's tokenizer."""

    source: ModelRef = "union"
    tokens: dict[str, TokenRule] | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None


class MergeRecipe(_Part):
    """A merge: models or slices, a method, its parameters, and what the result's types and tokenizer are."""

    merge_method: str
    models: list[InputModel] | None = None
    slices: list[OutputSlice] | None = None
    base_model: ModelRef | None = None
    parameters: Settings | None = None
    dtype: DType | None = None
    out_dtype: DType | None = None
    tokenizer_source: ModelRef | None = None
    tokenizer: TokenizerRule | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.merge_method not in METHODS:
            raise ValueError(f"unknown merge_method {self.merge_method!r}; there are {', '.join(sorted(METHODS))}")
        if bool(self.models) == bool(self.slices):
            raise ValueError("give `models:` or `slices:`, one of the two and not empty")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("give `tokenizer:` or `tokenizer_source:`, not both")
        return self

    def settings(self) -> dict[str, Any]:
        """As plain values, without what was not said: what digests, manifests and events carry."""
        return self.model_dump(mode="json", exclude_none=True)

    def references(self) -> list[str]:
        """Every model named, in the order of mention, the base first."""
        named = [self.base_model] if self.base_model else []
        named += [model.model for model in self.models or []]
        for part in self.slices or []:
            named += [part.base_model] if part.base_model else []
            named += [source.model for source in part.sources]
        return list(dict.fromkeys(named))

    def paths(self) -> list[str]:
        """Every reference that is a path: the models, and the tokenizer's where it is another model's."""
        source = self.tokenizer.source if self.tokenizer else self.tokenizer_source
        named = [*self.references(), *([source] if source and source not in {"union", "base"} else [])]
        return list(dict.fromkeys(named))

    def with_references(self, change: dict[str, str]) -> MergeRecipe:
        """The same recipe with every model reference replaced by what `change` says."""

        def renamed(value: Any, key: str = "") -> Any:
            if isinstance(value, dict):
                return {k: renamed(v, k) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
            if isinstance(value, list):
                return [renamed(item, key) for item in value]  # pyright: ignore[reportUnknownVariableType]
            named = key in {"model", "base_model", "tokenizer_source", "source"}
            return change.get(value, value) if named and isinstance(value, str) else value

        return MergeRecipe.model_validate(renamed(self.settings()))

    def faults(self) -> list[Fault]:
        """What is wrong with the parameters, each with its place."""
        method = METHODS[self.merge_method]
        found = settings_faults(method, self.parameters, ("parameters",))
        for index, model in enumerate(self.models or []):
            found += settings_faults(method, model.parameters, ("models", index, "parameters"))
        for number, part in enumerate(self.slices or []):
            found += settings_faults(method, part.parameters, ("slices", number, "parameters"))
            for index, source in enumerate(part.sources):
                place = ("slices", number, "sources", index, "parameters")
                found += settings_faults(method, source.parameters, place)
        return found


def _model_text(value: object) -> object:
    """Also written by mergekit: a model as a mapping, {model: {path: P}, lora: ...}."""
    if not isinstance(value, dict):
        return value
    known: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    if set(known) <= {"path", "revision"} and known.get("path") and not known.get("revision"):
        return str(known["path"])
    if set(known) <= {"model", "lora"} and known.get("model"):
        parts = [_model_text(known["model"]), *([_model_text(known["lora"])] if known.get("lora") else [])]
        return "+".join(str(part) for part in parts)
    return value
