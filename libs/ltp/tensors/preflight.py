"""Everything that can be said about a merge before it starts, from configurations and headers alone: in seconds, no weight read.

`prepare` gives what the engine needs, or raises what makes the merge impossible; what is merely worth knowing comes back as
findings.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ltp.contracts.merge_recipe import MergeRecipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.layout import MAX_FILE_BYTES, Shard, laid_out
from ltp.tensors.model_files import WIDTH
from ltp.tensors.plan import EMBEDDINGS, HEADS, LONG, Model, Step, refused, slices_of, steps_of
from ltp.tensors.settings_files import Settings, settings_files
from ltp.tensors.vocabulary import Rows, Vocabulary, aligned, union

# What the process needs beside the pieces in its threads' hands: the interpreter and torch's libraries.
_STANDING_BYTES = 200 << 20
_PIECE_BYTES = (1 << 18) * 4


@dataclass(frozen=True)
class Finding:
    """Something worth knowing before the merge starts."""

    code: str
    severity: Literal["warning", "note"]
    message: str


@dataclass(frozen=True)
class Prepared:
    """A merge that can start: its steps, where they go, and the small files of the result."""

    recipe: MergeRecipe
    models: list[Model]
    steps: list[Step]
    shards: list[Shard]
    files: Settings
    findings: list[Finding]
    # Bytes read at least once, written, and held in memory at most.
    read_bytes: int
    write_bytes: int
    memory_bytes: int

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        return {
            "method": self.recipe.merge_method,
            "models": [model.reference for model in self.models],
            "tensors": len(self.steps),
            "layers": self.files.config.get("num_hidden_layers"),
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "memory_bytes": self.memory_bytes,
            "findings": [asdict(finding) for finding in self.findings],
        }


def prepare(recipe: MergeRecipe, *, threads: int = 2, max_file_bytes: int = MAX_FILE_BYTES) -> Prepared:
    """Open the models' headers and plan every weight.

    Raises LtpError: MODEL_NOT_FOUND, MODEL_UNREADABLE (with the file), OPERATION_REFUSED.
    """
    models = [Model.open(reference) for reference in recipe.references()]
    findings = _compare(models)
    donor, rows, tokenizer = _vocabulary(recipe, models, findings)
    steps = steps_of(recipe, models, rows)
    shards = laid_out([step.target for step in steps], max_file_bytes)
    files = settings_files(recipe, models, donor, steps, tokenizer, slices_of(recipe, models))
    read = sum(o.stored.elements * WIDTH[o.stored.dtype] for step in steps for o in step.origins)
    most = max(len(step.origins) for step in steps)
    # Raw piece, float32 piece and a few temporaries for each model in each thread.
    memory = _STANDING_BYTES + threads * (most * 4 + 8) * _PIECE_BYTES
    return Prepared(recipe, models, steps, shards, files, findings, read, sum(s.size for s in shards), memory)


def check_space(directory: Path, need: int) -> None:
    """Raises DISK_FULL when the result would not fit."""
    there = directory
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if need > free:
        raise LtpError(
            ErrorCode.DISK_FULL,
            f"The result needs {need / 1e9:.2f} GB, and {there} has {free / 1e9:.2f} GB left.",
            "Free space there, or set `out_dtype: bfloat16`.",
        )


def _compare(models: Sequence[Model]) -> list[Finding]:
    """Refuse what has no meaning, and tell what may surprise."""
    first, *others = models
    for other in others:
        for key in ("model_type", "hidden_size"):
            ours, theirs = first.files.config.get(key), other.files.config.get(key)
            if ours != theirs:
                message = f"{first.reference} has {key} {ours}, and {other.reference} has {theirs}."
                raise refused(message, "Merge models of one architecture and one size.")
    for model in models:
        if model.files.config.get("quantization_config"):
            raise refused(f"The weights of {model.reference} are quantised.", "Dequantise the model first.")
    findings: list[Finding] = []
    if len({model.tied for model in models}) > 1:
        tied = ", ".join(model.reference for model in models if model.tied)
        text = f"{tied} ties its head to its embedding and others do not: the result has a head of its own."
        findings.append(Finding("tied_heads_differ", "warning", text))
    dtypes = {stored.dtype for model in models for stored in model.files.tensors.values()}
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(LONG[dtype] for dtype in dtypes))
        text = f"The models hold {kinds}: without `dtype:` they are merged in the type that holds both."
        findings.append(Finding("types_differ", "warning", text))
    templates = {text for model in models if (text := chat_template(model)) is not None}
    if len(templates) > 1:
        text = "The models have different chat templates; the result takes its tokenizer donor's unless told otherwise."
        findings.append(Finding("chat_templates_differ", "warning", text))
    return findings


def chat_template(model: Model) -> str | None:
    """A model's chat template, from its own file or its tokenizer's settings."""
    from ltp.tensors.settings_files import template_of

    return template_of(model.files.path)


def _vocabulary(
    recipe: MergeRecipe, models: Sequence[Model], findings: list[Finding]
) -> tuple[Model, list[Rows] | None, dict[str, Any] | None]:
    """Whose settings the result takes, the rows of its embedding by model, and its tokenizer where it is a new one."""
    donor = next((m for m in models if m.reference == recipe.base_model), models[0])
    rule = recipe.tokenizer
    source = rule.source if rule else recipe.tokenizer_source
    if source is None:
        _note_vocabularies(models, findings)
        return donor, None, None
    vocabularies = [Vocabulary.open(model.files.path) for model in models]
    base, asked = models.index(donor), dict(rule.tokens or {}) if rule else {}
    if source not in {"union", "base"}:
        donor = next((m for m in models if m.reference == source), None) or Model.open(source)
    own = Vocabulary.open(donor.files.path)
    others = [v for v, model in zip(vocabularies, models, strict=True) if model is not donor]
    document = union(own, others if source == "union" else [], list(asked))
    tokens = dict(own.tokens)
    tokens |= {str(entry["content"]): int(entry["id"]) for entry in document["added_tokens"]}
    result = Vocabulary(own.path, document, tokens)
    result.must_be_contiguous()
    heights = [_embedding_rows(model) for model in models]
    rows = aligned(
        result,
        vocabularies,
        heights,
        base=base if recipe.base_model else None,
        rules=asked,
        references=[model.reference for model in models],
        multiple=rule.pad_to_multiple_of if rule else None,
    )
    return donor, rows, document


def _note_vocabularies(models: Sequence[Model], findings: list[Finding]) -> None:
    """Tokenizers that differ though the shapes agree: the same id means different tokens."""
    known = [model for model in models if (model.files.path / "tokenizer.json").is_file()]
    if len(known) < 2:
        return
    first, *others = [(model, Vocabulary.open(model.files.path)) for model in known]
    for model, vocabulary in others:
        if vocabulary.tokens != first[1].tokens:
            text = f"{model.reference} and {first[0].reference} give tokens different ids; consider `tokenizer_source: union`."
            findings.append(Finding("vocabularies_differ", "warning", text))


def _embedding_rows(model: Model) -> int:
    names = (name for name in model.files.tensors if name.endswith((*EMBEDDINGS, *HEADS)))
    name = next(names, None)
    if name is None:
        raise refused(f"{model.reference} has no embedding to align.", "Leave `tokenizer_source` out.")
    return model.files.tensors[name].shape[0]
