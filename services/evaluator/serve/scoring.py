"""What a model thinks of a given text: log-probabilities of its tokens, and a vector for the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TokenScore:
    """A token with its log-probability and the most likely tokens in its place; None for the first of a text."""

    token: int
    logprob: float | None
    top: dict[int, float] | None


@torch.inference_mode()
def score_tokens(model: Any, ids: Sequence[int], top: int) -> list[TokenScore]:
    """One forward pass over `ids` (length,). Log-probabilities are taken in float32."""
    tensor = torch.tensor([list(ids)], device=model.device)
    logprobs = torch.log_softmax(model(input_ids=tensor, use_cache=False).logits[0, :-1].float(), dim=-1)
    own = logprobs.gather(1, tensor[0, 1:, None])[:, 0].tolist()
    best, places = logprobs.topk(max(1, top), dim=-1)
    scores = [TokenScore(ids[0], None, None)]
    for token, value, values, tokens in zip(ids[1:], own, best.tolist(), places.tolist(), strict=True):
        scores.append(TokenScore(token, value, dict(zip(tokens, values, strict=True))))
    return scores


@torch.inference_mode()
def embed_tokens(model: Any, ids: Sequence[int]) -> list[float]:
    """The mean of the last hidden states (length, hidden), scaled to length one."""
    tensor = torch.tensor([list(ids)], device=model.device)
    output = model(input_ids=tensor, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    mean = output.hidden_states[-1][0].float().mean(0)
    return torch.nn.functional.normalize(mean, dim=0).tolist()


def as_logprobs(tokenizer: Any, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """OpenAI's form. Tokens that decode to the same text keep the higher value, as in vLLM."""
    texts = [tokenizer.decode([score.token]) for score in scores]
    offsets, place = list[int](), 0
    for text in texts:
        offsets.append(place)
        place += len(text)
    tops: list[dict[str, float] | None] = []
    for score, text in zip(scores, texts, strict=True):
        if score.top is None or score.logprob is None:
            tops.append(None)
            continue
        named: dict[str, float] = {text: score.logprob}
        for token, value in score.top.items():
            word = tokenizer.decode([token])
            named[word] = max(value, named.get(word, value))
        tops.append(named)
    return {
        "tokens": texts,
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
