"""LoRA adapters in peft's format, seen through their headers, and which weights of a model they change."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.model_files import ModelFiles, Stored, read_header, read_json, unreadable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """What is added to a weight: scale * B @ A, with A [rank, in] and B [out, rank] (Hu et al. 2021, arXiv:2106.09685)."""

    a: Stored
    b: Stored
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An adapter: weight name of the model -> its change."""

    path: Path
    changes: dict[str, LowRank]
    header: bytes

    @classmethod
    def open(cls, path: Path, model: ModelFiles) -> Adapter:
        """Read an adapter and hold it against its model. Raises MODEL_NOT_FOUND or MODEL_UNREADABLE."""
        if not path.is_dir():
            raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"There is no adapter directory {path}.", "Give its path.")
        config = read_json(path / CONFIG)
        _must_be_plain(path, config)
        if not (path / WEIGHTS).is_file():
            raise unreadable(f"{path} lacks {WEIGHTS}.", "Pickled adapters are refused: save it as safetensors.")
        header, stored = read_header(path / WEIGHTS)
        changes: dict[str, LowRank] = {}
        for name, tensor in stored.items():
            module, kind, _ = name.removeprefix(PREFIX).rpartition(".lora_A")
            if kind:
                changes[f"{module}.weight"] = _change(path, config, module, tensor, stored, model)
            elif ".lora_B" not in name:
                raise unreadable(f"{path}: {name} is no LoRA matrix, so it cannot be merged in.")
        if not changes:
            raise unreadable(f"{path} changes no weight.")
        return cls(path, changes, header)


def _must_be_plain(path: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise unreadable(f"{path} is an adapter of type {kind}; only LORA can be merged in.")
    for key in ("use_dora", "modules_to_save", "fan_in_fan_out"):
        if config.get(key):
            raise unreadable(f"{path} has {key} set, which is not supported.", "Merge it with peft.")
    if config.get("bias", "none") != "none":
        raise unreadable(f"{path} changes biases, which is not supported.", "Merge it with peft.")


def _change(
    path: Path, config: dict[str, Any], module: str, a: Stored, stored: dict[str, Stored], model: ModelFiles
) -> LowRank:
    b = stored.get(a.name.replace(".lora_A", ".lora_B"))
    target = model.tensors.get(f"{module}.weight")
    if b is None:
        raise unreadable(f"{path} has {a.name} without its lora_B.")
    if target is None:
        raise unreadable(
            f"{path} changes {module}.weight, which {model.path} has not.", "The adapter belongs to another base model."
        )
    if len(a.shape) != 2 or len(b.shape) != 2 or (b.shape[0], a.shape[1]) != target.shape or b.shape[1] != a.shape[0]:
        raise unreadable(
            f"{path}: {module} has B {list(b.shape)} and A {list(a.shape)}, and the weight in {model.path} is "
            f"{list(target.shape)}.",
            "The adapter belongs to another base model.",
        )
    rank, alpha = a.shape[0], _pattern(config, "alpha_pattern", module, config.get("lora_alpha", a.shape[0]))
    return LowRank(a, b, alpha / (sqrt(rank) if config.get("use_rslora") else rank))


def _pattern(config: dict[str, Any], key: str, module: str, default: Any) -> float:
    patterns: dict[str, Any] = config.get(key) or {}
    found = next((value for name, value in patterns.items() if module.endswith(name)), default)
    return float(found)
