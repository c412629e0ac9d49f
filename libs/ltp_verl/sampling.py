"""Batched sampling from a causal language model with a key-value cache, with the log-probability of every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class SamplingRule:
    """How a token is drawn. Temperature 0 takes the likeliest; `top_k` -1 and `top_p` 1 leave all tokens in."""

    temperature: float
    top_p: float
    top_k: int

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> SamplingRule:
        """From verl's sampling parameters."""
        top_p, top_k = parameters.get("top_p", 1.0), parameters.get("top_k", -1)
        return cls(float(parameters.get("temperature", 1.0)), float(top_p), int(top_k or -1))


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens may follow it."""

    prompt_ids: list[int]
    max_tokens: int
    rule: SamplingRule


@dataclass(frozen=True)
class Sample:
    """A response and the log-probability of each of its tokens under the rule they were drawn by."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


@torch.no_grad()
def sample_batch(model: Any, requests: list[Request], rule: SamplingRule, ends: set[int]) -> list[Sample]:
    """One sample per request; prompts of different length are padded on the left."""
    samples = [Sample() for _ in requests]
    ids, mask = _left_padded([request.prompt_ids for request in requests])
    limits = torch.tensor([request.max_tokens for request in requests])
    stops = torch.tensor(sorted(ends))
    living = torch.ones(len(requests), dtype=torch.bool)
    cache = None
    while living.any():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        tokens, log_probs = draw(output.logits[:, -1].float(), rule)
        for row in living.nonzero()[:, 0].tolist():
            samples[row].token_ids.append(int(tokens[row]))
            samples[row].log_probs.append(float(log_probs[row]))
        lengths = torch.tensor([len(sample.token_ids) for sample in samples])
        living &= ~torch.isin(tokens, stops) & (lengths < limits)
        ids = tokens[:, None]
        mask = torch.cat([mask, living.long()[:, None]], dim=1)
    return samples


def draw(logits: torch.Tensor, rule: SamplingRule) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and log-probability per row of `logits` (rows by vocabulary)."""
    if rule.temperature <= 0:
        log_probs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        log_probs = _nucleus(_likeliest(logits / rule.temperature, rule.top_k), rule.top_p).log_softmax(-1)
        tokens = torch.multinomial(log_probs.exp(), 1)[:, 0]
    return tokens, log_probs.gather(1, tokens[:, None])[:, 0]


def _left_padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    # What the padding holds does not matter: the mask keeps everyone from looking at it.
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    if count <= 0:
        return logits
    return logits.masked_fill(logits < logits.topk(count)[0][:, -1:], float("-inf"))


def _nucleus(logits: torch.Tensor, mass: float) -> torch.Tensor:
    if mass >= 1:
        return logits
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    # A token stays while those before it hold less than the mass, so the likeliest always does.
    outside = probabilities.cumsum(-1) - probabilities > mass
    return torch.full_like(logits, float("-inf")).scatter(1, order, ordered.masked_fill(outside, float("-inf")))
