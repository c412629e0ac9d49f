"""LoRA adapters as peft saves them: what one must hold to be served on a base, and which base it belongs to. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: Path) -> bool:
    """Whether a directory is an adapter and no model."""
    return (path / _CONFIG).is_file() and not (path / "config.json").is_file()


def check_adapter(path: Path) -> int:
    """The rank of an adapter that can be served. Raises LtpError MODEL_NOT_FOUND or MODEL_UNREADABLE, saying what is amiss."""
    config = _config(path)
    if config.get("peft_type", "LORA") != "LORA":
        raise _unreadable(f"{path} is an adapter of type {config.get('peft_type')}.", "Only LoRA adapters are served.")
    if not (path / _WEIGHTS).is_file():
        raise _unreadable(f"{path} lacks {_WEIGHTS}.", "Pickled adapters are refused: save it as safetensors.")
    ranks = [config.get("r"), *dict(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise _unreadable(f"{path / _CONFIG}: the rank is {ranks[0]!r}.", "It must be a whole number above 0.")
    return max(int(rank) for rank in ranks if rank)


def base_of(path: Path) -> Path:
    """The model that an adapter says it was trained on. Raises LtpError MODEL_UNREADABLE where that is no directory here."""
    named = _config(path).get("base_model_name_or_path")
    if not named or not Path(named).is_dir():
        hint = "Name the base with --model and the adapter with --adapter."
        raise _unreadable(f"{path} is a LoRA adapter of {named!r}, which is no directory here.", hint)
    return Path(named)


def _config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"There is no adapter directory {path}.", "Give a directory.")
    try:
        found = json.loads((path / _CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(
            f"{path / _CONFIG} cannot be read: {error}", "Save it with peft's save_pretrained."
        ) from error
    if not isinstance(found, dict):
        raise _unreadable(f"{path / _CONFIG} is no JSON object.", "Save it with peft's save_pretrained.")
    return found


def _unreadable(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.MODEL_UNREADABLE, message, hint)
