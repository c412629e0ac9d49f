"""Small models written straight to disk, for tests of merges: the names and shapes of a Llama, nothing that loads one."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

import torch
from safetensors.torch import save_file

from ltp.core.model_config import read_architecture, weight_shapes
from ltp.tensors.operate import run

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip


def tokenizer(words: list[str]) -> dict[str, Any]:
    """A tokenizer.json of whole words."""
    vocab = {word: place for place, word in enumerate(words)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}


def write(
    path: Path, seed: int, *, dtype: torch.dtype = torch.bfloat16, words: list[str] | None = None, **config: Any
) -> Path:
    """A model with random weights; its vocabulary is `words`, else as many as the configuration says."""
    settings = CONFIG | config | ({"vocab_size": len(words)} if words else {})
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(settings))
    names = words or [f"w{n}" for n in range(settings["vocab_size"])]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(names)))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    made = torch.Generator().manual_seed(seed)
    shapes = weight_shapes(read_architecture(settings))
    weights = {name: torch.randn(shape, generator=made).to(dtype) for name, shape in shapes.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def linear(*models: Path, **more: Any) -> dict[str, Any]:
    """A recipe of their mean."""
    inputs = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    return {"merge_method": "linear", "models": inputs} | more


def carry_out(kind: str, recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """The operation without a queue around it."""
    return run({"kind": kind, "recipe": recipe, "out": str(out), "proof": False}, Event(), lambda _: None)
