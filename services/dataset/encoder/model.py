"""A model directory as sentence-transformers writes it, read with transformers alone: tokens, hidden states, pooling."""

# transformers' types are not worth their import.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

# A token is hardly ever longer than this; what lies beyond the model's limit is not even tokenised.
_CHARACTERS_PER_TOKEN = 24
_BATCH_TOKENS = 8192
_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
_POOLING = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}


@dataclass
class SentenceModel:
    """Texts in, unit vectors out. `fingerprint` changes when weights, tokenizer or pooling do."""

    tokenizer: Any
    model: Any
    pooling: str
    prefix: str
    dimension: int
    max_tokens: int
    fingerprint: str

    @classmethod
    def load(cls, path: Path) -> SentenceModel:
        """Read the directory. Only safetensors, and no code that comes with the model."""
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} has no config.json")
        if not list(path.glob("*.safetensors")):
            raise FileNotFoundError(f"{path} has no *.safetensors")
        _require_known_modules(path)
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
        model = AutoModel.from_pretrained(
            str(path), trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        ).eval()
        limit = _json(path / "sentence_bert_config.json").get("max_seq_length") or tokenizer.model_max_length
        positions = getattr(model.config, "max_position_embeddings", None) or limit
        return cls(
            tokenizer=tokenizer,
            model=model,
            pooling=_pooling(path),
            prefix=_prefix(path),
            dimension=int(model.config.hidden_size),
            max_tokens=int(min(limit, positions, 8192)),
            fingerprint=_fingerprint(path),
        )

    def encode(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        """(unit vectors [texts, dimension], how many texts were longer than the model reads)."""
        cut = self.max_tokens * _CHARACTERS_PER_TOKEN
        encoded = self.tokenizer([self.prefix + text[:cut] for text in texts], add_special_tokens=True)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: lengths[i])
        while order:
            rows = _batch(order, lengths, self.max_tokens)
            vectors[rows] = self._forward([texts[i][:cut] for i in rows])
        return vectors, sum(length > self.max_tokens for length in lengths)

    @torch.inference_mode()
    def _forward(self, texts: list[str]) -> NDArray[np.float32]:
        inputs = self.tokenizer(
            [self.prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        hidden = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.pooling == "last":
            pooled = hidden[torch.arange(len(hidden)), inputs["attention_mask"].sum(1) - 1]
        else:
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return unit


def _batch(order: list[int], lengths: list[int], limit: int) -> list[int]:
    """Take texts of about the same length from the end, as many as the token budget holds padded."""
    longest = min(lengths[order[-1]], limit)
    count = max(1, min(len(order), _BATCH_TOKENS // max(1, longest)))
    taken = order[-count:]
    del order[-count:]
    return taken


def _require_known_modules(path: Path) -> None:
    """A layer that is not applied would give other vectors than the model's, silently."""
    listed: Any = json.loads((path / "modules.json").read_text()) if (path / "modules.json").is_file() else []
    unknown = [m["type"] for m in listed if str(m["type"]).rpartition(".")[2] not in _MODULES]
    if unknown:
        raise ValueError(f"its modules {', '.join(unknown)} are not supported")


def _pooling(path: Path) -> str:
    config = _json(path / "1_Pooling" / "config.json")
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    unknown = [name for name in modes if name not in _POOLING]
    if unknown or len(modes) > 1:
        raise ValueError(f"its pooling ({', '.join(modes)}) is not supported")
    return _POOLING[modes[0]] if modes else "mean"


def _prefix(path: Path) -> str:
    config = _json(path / "config_sentence_transformers.json")
    name = config.get("default_prompt_name")
    return str((config.get("prompts") or {}).get(name, "")) if name else ""


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json"), *path.glob("1_Pooling/*.json")]):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\n".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found
