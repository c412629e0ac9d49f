"""A checkpoint of LoRA training seen as the model it stands for, with the adapter beside it in peft's own format.

verl saves the frozen base and the adapter's matrices in the same shards. Here every adapted weight is W + alpha / r * B A
(E. Hu et al. 2021, arXiv:2106.09685), computed in float32 and rounded once, as peft merges.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ltp.tensors.adapters import CONFIG, PREFIX, WEIGHTS
from ltp.tensors.fsdp_checkpoint import ShardedCheckpoint, export_failed, read_json
from ltp.tensors.weights_file import Entry, write_weights

META = "lora_train_meta.json"
_BASE = ".base_layer.weight"
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


class AdaptedCheckpoint:
    """The same names, shapes, types and weights as the checkpoint of a full training would have."""

    def __init__(self, directory: Path, shards: ShardedCheckpoint) -> None:
        """Raises LtpError(EXPORT_FAILED): no rank or alpha is known, or matrices are missing."""
        self._shards = shards
        self.rank, self.alpha = _rank_and_alpha(directory)
        self.modules = sorted(name.removesuffix(_A) for name in shards.names if name.endswith(_A))
        pieces = {f"{module}{end}" for module in self.modules for end in (_A, _B, _BASE)}
        strange = [name for name in shards.names if "lora_" in name and name not in pieces]
        missing = sorted(pieces - set(shards.names))
        if strange or missing or not self.modules:
            what = f"has {strange[0]}" if strange else f"lacks {missing[0]}" if missing else "has no adapters"
            raise export_failed(f"The checkpoint of LoRA training {what}.")
        for module in self.modules:
            if shards.shape(f"{module}{_A}")[0] != self.rank or shards.shape(f"{module}{_B}")[1] != self.rank:
                raise export_failed(f"{module} has adapters of another rank than {META} says ({self.rank}).")
        # The model's name of a weight -> its name in the shards.
        self._names = {_plain(name): name for name in shards.names if not name.endswith((_A, _B))}
        self.names = list(self._names)

    def dtype(self, name: str) -> torch.dtype:
        """The type a weight was trained in."""
        return self._shards.dtype(self._names[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole weight."""
        return self._shards.shape(self._names[name])

    def weight(self, name: str) -> torch.Tensor:
        """The whole weight, with what its adapter changes."""
        stored = self._names[name]
        base = self._shards.weight(stored)
        if not stored.endswith(_BASE):
            return base
        module = stored.removesuffix(_BASE)
        a, b = (self._shards.weight(f"{module}{end}").float() for end in (_A, _B))
        return (base.float() + (b @ a) * (self.alpha / self.rank)).to(base.dtype)

    def write_adapter(self, directory: Path, base_model: str | None) -> None:
        """The adapter alone, as `peft.PeftModel.from_pretrained` reads it; the directory must not exist."""
        directory.mkdir()
        sources = {
            f"{module}{end.replace('.default', '')}": f"{module}{end}" for module in self.modules for end in (_A, _B)
        }
        entries = [Entry(name, self._shards.dtype(at), self._shards.shape(at)) for name, at in sources.items()]
        write_weights(directory / WEIGHTS, entries, lambda name: self._shards.weight(sources[name]))
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": 0.0,
            "bias": "none", "inference_mode": True, "base_model_name_or_path": base_model,
            "target_modules": sorted({module.rpartition(".")[2] for module in self.modules}),
        }  # fmt: skip
        (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def is_adapted(directory: Path, shards: ShardedCheckpoint) -> bool:
    """Whether a checkpoint is one of LoRA training."""
    return (directory / META).exists() or any("lora_" in name for name in shards.names)


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")


def _rank_and_alpha(directory: Path) -> tuple[int, float]:
    meta: dict[str, Any] = read_json(directory / META)
    rank, alpha = meta.get("r"), meta.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or alpha <= 0:
        # verl writes 0 where it does not know, and a guess would be another model.
        message = f"{directory / META} gives rank {rank!r} and alpha {alpha!r}, and both are needed to merge adapters."
        raise export_failed(message, "Write the alpha that the run trained with into that file.")
    return rank, float(alpha)
