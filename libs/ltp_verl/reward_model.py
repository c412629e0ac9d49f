"""The reward of a model that scores a whole conversation: Hugging Face sequence classification with one output."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ltp_verl.rewards import Asked, Judge, RewardError, finite


def model(reward: Mapping[str, Any]) -> Judge:
    """The judge at `model`, in host memory. Raises RewardError for one that is no reward model."""
    path = reward["model"]
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        network: Any = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise RewardError(f"{path} cannot be loaded as a reward model: {str(error).splitlines()[0][:300]}") from error
    if network.config.num_labels != 1:
        raise RewardError(f"{path} has {network.config.num_labels} outputs, and a reward is one number")
    if not tokenizer.chat_template:
        raise RewardError(f"the tokenizer of {path} has no chat template, so it cannot be shown a conversation")
    lock = asyncio.Lock()

    def score(asked: Asked) -> float:
        talk = [*(dict(turn) for turn in asked.prompt), {"role": "assistant", "content": asked.response}]
        ids = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]
        kept = torch.tensor([ids[-reward["max_length"] :]])
        with torch.no_grad():
            # One sequence at a time: padding would need a padding token, which many have not.
            return finite(network(input_ids=kept).logits[0, 0].item(), path)

    async def judge(asked: Asked) -> float:
        async with lock:
            return await asyncio.to_thread(score, asked)

    return judge
