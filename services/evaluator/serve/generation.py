"""A batch of sequences that advances one token at a time; rows that finish leave it and give their memory back."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

FinishReason = Literal["stop", "length"]


@dataclass
class Row:
    """One prompt on its way to an answer."""

    prompt: list[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    # Name of the LoRA adapter that answers, None for the model as it is.
    adapter: str | None = None
    tokens: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason | None = None
    # Set from another thread when nobody waits for the answer any more.
    abandoned: bool = False
    _random: torch.Generator | None = None

    def accept(self, logits: torch.Tensor, eos: frozenset[int]) -> None:
        """Choose the next token from `logits` (vocabulary,) and note whether it is the last."""
        token = self._choose(logits)
        self.tokens.append(token)
        if token in eos:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish_reason = "length"

    def _choose(self, logits: torch.Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self.temperature, dim=-1)
        ordered, order = probabilities.sort(descending=True)
        # A token stays while the mass before it is below top_p, so the most likely one always stays.
        ordered[ordered.cumsum(0) - ordered >= self.top_p] = 0
        return int(order[torch.multinomial(ordered, 1, generator=self._generator())])

    def _generator(self) -> torch.Generator:
        # One per row, so that a seed gives the same draws in whatever batch the row lands.
        if self._random is None:
            self._random = torch.Generator()
            self._random.manual_seed(secrets.randbits(63) if self.seed is None else self.seed)
        return self._random


class Batch:
    """Rows that share forward passes: left-padded prompts first, then a token each against the KV cache."""

    def __init__(self, model: Any, rows: Sequence[Row], eos: frozenset[int], pad: int) -> None:
        self.rows = list(rows)
        self._model, self._eos = model, eos
        width = max(len(row.prompt) for row in rows)
        device = model.device
        self._ids = torch.tensor([[pad] * (width - len(row.prompt)) + row.prompt for row in rows], device=device)
        self._mask = torch.tensor(
            [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=device
        )
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache: Any = None

    @torch.inference_mode()
    def advance(self) -> list[Row]:
        """Give every row one more token; return all rows that moved. Finished and abandoned rows are then gone."""
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        moved = self.rows
        for row, logits in zip(moved, output.logits[:, -1], strict=True):
            row.accept(logits, self._eos)
        self._keep([i for i, row in enumerate(moved) if row.finish_reason is None and not row.abandoned])
        return moved

    def _keep(self, kept: list[int]) -> None:
        if len(kept) < len(self.rows) and kept:
            index = torch.tensor(kept, device=self._mask.device)
            self._cache.batch_select_indices(index)
            self._mask, self._positions = self._mask[index], self._positions[index]
        self.rows = [self.rows[i] for i in kept]
        if self.rows:
            self._ids = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self._mask.device)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
            self._positions = self._positions[:, -1:] + 1
