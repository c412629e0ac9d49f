"""Whose row of the embedding each token of the result takes, when models with different vocabularies are merged.

The rules are mergekit's: the union keeps the base's tokens where they are and adds the others' as added tokens; a token that
a model lacks takes the base's row, else its only owner's, else the mean of its owners'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltp.contracts.merge_recipe import TokenRule, TokenSource
from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.model_files import read_json, unreadable

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer.json and its tokens."""

    path: Path
    document: dict[str, Any]
    tokens: dict[str, int]

    @classmethod
    def open(cls, model: Path) -> Vocabulary:
        """Read a model's tokenizer.json. Raises MODEL_UNREADABLE."""
        if not (model / TOKENIZER).is_file():
            raise unreadable(
                f"{model} has no {TOKENIZER}, which a merge of vocabularies needs.", "Save a fast tokenizer."
            )
        document = read_json(model / TOKENIZER)
        raw: object = document.get("model", {}).get("vocab")
        if isinstance(raw, dict):
            tokens = {str(token): int(place) for token, place in raw.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif isinstance(raw, list):
            # Unigram models list [token, score].
            tokens = {str(entry[0]): place for place, entry in enumerate(raw)}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        else:
            raise unreadable(f"{model / TOKENIZER} has no vocabulary.")
        tokens |= {str(entry["content"]): int(entry["id"]) for entry in document.get("added_tokens") or []}
        return cls(model, document, tokens)

    def must_be_contiguous(self) -> None:
        """Raises MODEL_UNREADABLE when ids are not 0 to n - 1, so that rows would have no token."""
        if sorted(self.tokens.values()) != list(range(len(self.tokens))):
            highest = max(self.tokens.values(), default=-1)
            raise unreadable(
                f"{self.path / TOKENIZER} has {len(self.tokens)} tokens with ids up to {highest}: they are not contiguous.",
                "Merge with the tokenizer left as it is, or resize the model's vocabulary first.",
            )


@dataclass
class Rows:
    """Rows of the result's embedding for one model: `own[row]` is its own row, or -1: then `lent[row]` says whose.

    `lent` lists (model, row) whose mean is taken; an empty list means zeros. Rows from `tokens` on are padding and take the
    mean of all others.
    """

    own: list[int]
    lent: dict[int, list[tuple[int, int]]] = field(default_factory=dict[int, list[tuple[int, int]]])
    tokens: int = 0


def union(base: Vocabulary, others: Sequence[Vocabulary], extra: Sequence[str] = ()) -> dict[str, Any]:
    """The base's tokenizer.json with every token that another model has beside it, as added tokens."""
    added = list(base.document.get("added_tokens") or [])
    known, place = set(base.tokens), len(base.tokens)
    for other in others:
        special = {str(entry["content"]): entry for entry in other.document.get("added_tokens") or []}
        for token, _ in sorted(other.tokens.items(), key=lambda pair: pair[1]):
            if token not in known:
                added.append((special.get(token) or _plain(token)) | {"id": place})
                known.add(token)
                place += 1
    for token in extra:
        if token not in known:
            added.append(_plain(token) | {"id": place})
            known.add(token)
            place += 1
    return base.document | {"added_tokens": added}


def _plain(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return {"content": token, "normalized": True, **flags}


def aligned(
    result: Vocabulary,
    models: Sequence[Vocabulary],
    rows: Sequence[int],
    *,
    base: int | None,
    rules: Mapping[str, TokenRule],
    references: Sequence[str],
    multiple: int | None,
) -> list[Rows]:
    """For every model, where each row of the result comes from. `rows` are the heights of the models' embeddings."""
    count = len(result.tokens)
    height = -(-count // multiple) * multiple if multiple else count
    found = [Rows([-1] * height, {}, count) for _ in models]
    for token, place in result.tokens.items():
        owned = [
            row if (row := vocabulary.tokens.get(token, -1)) < high else -1
            for vocabulary, high in zip(models, rows, strict=True)
        ]
        rule = rules.get(token)
        lent = (
            _lent(owned, base)
            if rule is None or rule.source is None
            else _asked(rule.source, token, models, references)
        )
        for model, row in enumerate(owned):
            if row >= 0 and not (rule and rule.force):
                found[model].own[place] = row
            else:
                found[model].lent[place] = lent
    return found


def _lent(owned: Sequence[int], base: int | None) -> list[tuple[int, int]]:
    owners = [(model, row) for model, row in enumerate(owned) if row >= 0]
    if base is not None and owned[base] >= 0:
        return [(base, owned[base])]
    return owners


def _asked(
    source: TokenSource | str, token: str, models: Sequence[Vocabulary], references: Sequence[str]
) -> list[tuple[int, int]]:
    if isinstance(source, TokenSource) and source.kind == "zero":
        return []
    name = source if isinstance(source, str) else str(source.model)
    if name not in references:
        raise LtpError(
            ErrorCode.OPERATION_REFUSED,
            f"The token {token!r} is to come from {name}, which is not merged.",
            "Name one of the models of the merge.",
        )
    model = references.index(name)
    wanted = token if isinstance(source, str) else source.token
    row = models[model].tokens.get(wanted, -1) if wanted is not None else source.token_id  # type: ignore[union-attr]
    if row is None or row < 0 or row >= len(models[model].tokens):
        raise LtpError(
            ErrorCode.OPERATION_REFUSED,
            f"{name} has no token {wanted!r} to take an embedding from.",
            "Check `tokens:`.",
        )
    return [(model, row)]
