"""Reads a model directory before anything is planned on it, so that an unusable model fails before it queues.

A path is a path: it is never tried as the name of a model on a hub.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, cast

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import Architecture, check_against_index, read_architecture

INDEX = "model.safetensors.index.json"
# Any of these lets transformers build a tokenizer; a BPE vocabulary also needs its merges.
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HINT = "Give a directory with config.json, tokenizer and safetensors weights, as `save_pretrained` writes it."


def read_model(path: Path) -> Architecture:
    """The architecture of the model at `path`, whose weights and tokenizer are there and whole.

    Raises LtpError: MODEL_NOT_FOUND (no such directory, no config.json), MODEL_UNREADABLE (broken or unsupported
    configuration; weights missing, pickled or cut off; no tokenizer).
    """
    if not path.exists():
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"The model path {path} does not exist.", _HINT)
    if not path.is_dir():
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"The model path {path} is not a directory.", _HINT)
    if not (path / "config.json").is_file():
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"The model path {path} has no config.json.", _HINT)
    arch = read_architecture(_json_object(path / "config.json"))
    _check_tokenizer(path)
    check_against_index(arch, _vocabulary(path), None)
    files = _weight_files(path)
    counted = sum(_check_whole(file, arch.layers) for file in files)
    check_against_index(arch, None, counted, source=str(files[0] if len(files) == 1 else path / INDEX))
    return arch


def read_config(path: Path) -> Architecture:
    """The architecture of a model whose weights need not be here: from its directory, or from a config.json itself.

    Raises LtpError: MODEL_NOT_FOUND, MODEL_UNREADABLE.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        what = f"has no {file.name}" if path.is_dir() else "does not exist"
        raise LtpError(
            ErrorCode.MODEL_NOT_FOUND, f"The model path {path} {what}.", "Give a directory, or a config.json."
        )
    return read_architecture(_json_object(file))


def _unreadable(message: str, hint: str = _HINT) -> LtpError:
    return LtpError(ErrorCode.MODEL_UNREADABLE, message, hint)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(file.read_bytes())
    except OSError as error:
        raise _unreadable(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"{file} is broken JSON: {error}.") from error
    if not isinstance(value, dict):
        raise _unreadable(f"{file} holds no JSON object.")
    return cast("dict[str, Any]", value)


def _check_tokenizer(path: Path) -> None:
    if not any(all((path / name).is_file() for name in names) for names in _TOKENIZERS):
        raise _unreadable(f"{path} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt).")


def _vocabulary(path: Path) -> int | None:
    """Tokens of the tokenizer, counted to its largest number; None where it does not list them.

    One beyond the embedding's rows ends training with an index error, at once or hours in.
    """
    if not (path / "tokenizer.json").is_file():
        return None
    tokenizer = _json_object(path / "tokenizer.json")
    model: Any = tokenizer.get("model") or {}
    words: Any = model.get("vocab") if isinstance(model, dict) else None
    # A unigram model lists its words, a BPE one names their numbers.
    ids = (
        list(words.values()) if isinstance(words, dict) else list(range(len(words))) if isinstance(words, list) else []
    )
    ids += [token.get("id") for token in tokenizer.get("added_tokens") or [] if isinstance(token, dict)]
    return max((number for number in ids if isinstance(number, int)), default=-1) + 1 or None


def _weight_files(path: Path) -> list[Path]:
    if (path / INDEX).is_file():
        weight_map: object = _json_object(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise _unreadable(f"{path / INDEX} has no weight_map.")
        names = sorted({str(name) for name in cast("dict[str, object]", weight_map).values()})
        absent = [name for name in names if not (path / name).is_file()]
        if absent:
            raise _unreadable(f"{path / INDEX} names {absent[0]}, which is not there.", "Copy the whole model again.")
        return [path / name for name in names]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    pickled = next((file.name for pattern in _PICKLED for file in sorted(path.glob(pattern))), None)
    if pickled:
        hint = "Convert it where you trust it: load it with transformers and call save_pretrained."
        raise _unreadable(f"{path} has pickled weights alone ({pickled}), which may run code when read.", hint)
    raise _unreadable(f"{path} has no safetensors weights (model.safetensors or {INDEX}).")


def _check_whole(file: Path, layers: int) -> int:
    """A safetensors file is 8 bytes of header length, the JSON header, and exactly the bytes the header counts.

    Returns how many of its numbers are weights of the first `layers` layers, or of none.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if 0 < length <= size - 8 else b""
    try:
        entries = cast("dict[str, dict[str, list[int]]]", json.loads(header))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        weights = sum(prod(entry["shape"]) for name, entry in entries.items() if _counts(name, layers))
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
        raise _unreadable(f"{file} is no safetensors file, or is cut off in its header.") from None
    if 8 + length + end != size:
        raise _unreadable(f"{file} is cut off: {size} bytes of {8 + length + end}.", "Copy the model again.")
    return weights


def _counts(name: str, layers: int) -> bool:
    """Not what is computed anew (rotary tables), is no weight (a router's correction), or is beyond the config's layers.

    DeepSeek-V3's files bring a layer more, which predicts the token after the next.
    """
    if name.endswith(("rotary_emb.inv_freq", "e_score_correction_bias", "attn.bias", "masked_bias")):
        return False
    parts = name.split(".")
    after = parts[parts.index("layers") + 1] if "layers" in parts[:-1] else "0"
    return not after.isdecimal() or int(after) < layers
