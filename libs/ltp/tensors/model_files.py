"""A Hugging Face model directory seen through its headers: every tensor's place, type and shape, without reading a weight.

Needs no torch, so that a merge is judged in well under a second. Weights are read with `pread`, not through a memory
map: a file that is cut short while we read is then an error with a name, not a SIGBUS.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from ltp.core.errors import ErrorCode, LtpError

WIDTH = {"F32": 4, "BF16": 2, "F16": 2}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_HEADER = 100 << 20


def unreadable(message: str, hint: str = "Check the model's files.") -> LtpError:
    """The error of a model that cannot be merged."""
    return LtpError(ErrorCode.MODEL_UNREADABLE, message, hint)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file. `offset` counts from the file's beginning."""

    name: str
    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many values it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModelFiles:
    """A model directory: its configuration and where each tensor lies."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Stored]
    files: tuple[Path, ...]
    # The headers' bytes, which the fingerprint is made of.
    headers: tuple[bytes, ...]

    @classmethod
    def open(cls, path: Path) -> ModelFiles:
        """Read configuration and headers.

        Raises LtpError: MODEL_NOT_FOUND, or MODEL_UNREADABLE naming the file that is wrong.
        """
        _must_be_model(path)
        config = read_json(path / "config.json")
        wanted = _files(path)
        tensors: dict[str, Stored] = {}
        headers: list[bytes] = []
        for file in sorted(set(wanted.values())) if wanted else [SINGLE]:
            header, found = read_header(path / file)
            headers.append(header)
            for name, stored in found.items():
                if name in tensors:
                    raise unreadable(f"{name} stands both in {tensors[name].file.name} and in {file} of {path}.")
                tensors[name] = stored
        missing = next((name for name, file in wanted.items() if name not in tensors), None)
        if missing is not None:
            raise unreadable(f"{path / INDEX} names {missing} in {wanted[missing]}, which lacks it.")
        if not tensors:
            raise unreadable(f"{path} holds no tensor.")
        files = tuple(sorted({stored.file for stored in tensors.values()}))
        return cls(path, config, tensors, files, tuple(headers))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises MODEL_UNREADABLE."""
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise unreadable(f"{path} does not exist.", "A model directory holds config.json and safetensors.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise unreadable(f"{path} holds no JSON object.")
    return cast("dict[str, Any]", value)


def _must_be_model(path: Path) -> None:
    if not path.is_dir():
        raise LtpError(
            ErrorCode.MODEL_NOT_FOUND,
            f"There is no model directory {path}.",
            "Models are directories on this machine, given by path or by their name under DATA/models; nothing is "
            "downloaded.",
        )
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise unreadable(f"{path} is a LoRA adapter, not a model.", "Write BASE+ADAPTER to merge it into its base.")
    if (path / "fsdp_config.json").exists() or (path / "actor" / "fsdp_config.json").exists():
        raise unreadable(f"{path} holds a trainer's shards, not a model.", "`ltp export` makes a model of it.")


def _files(path: Path) -> dict[str, str]:
    """Tensor -> file name by the index; empty when there is one file only."""
    if (path / INDEX).exists():
        mapping: object = read_json(path / INDEX).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise unreadable(f"{path / INDEX} has no weight_map.")
        files = {str(name): str(file) for name, file in cast("dict[object, object]", mapping).items()}
        for file in sorted(set(files.values())):
            # A file name, nothing that leads elsewhere.
            if file != Path(file).name or not file.endswith(".safetensors"):
                raise unreadable(f"{path / INDEX} names {file}, which is no safetensors file of that directory.")
            if not (path / file).is_file():
                raise unreadable(f"{path / INDEX} names {file}, which does not exist.", "Copy the missing shard.")
        return files
    if (path / SINGLE).is_file():
        return {}
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled:
        raise unreadable(
            f"{path} holds pickled weights ({pickled[0]}) and no safetensors.",
            "A pickle can run code. Convert it with transformers: save_pretrained(..., safe_serialization=True).",
        )
    raise unreadable(f"{path} holds neither {SINGLE} nor {INDEX}.")


def read_header(path: Path) -> tuple[bytes, dict[str, Stored]]:
    """The header's bytes and the tensors of a safetensors file. Raises MODEL_UNREADABLE with the file's name."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise unreadable(f"{path} is no safetensors file, or it is cut short ({size} bytes).")
            header = stream.read(length)
        fields = json.loads(header)
        tensors = {
            name: _stored(path, name, entry, 8 + length) for name, entry in fields.items() if name != "__metadata__"
        }
    except OSError as error:
        raise unreadable(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise unreadable(f"{path} has a broken header: {type(error).__name__} {error}.") from error
    _must_cover(path, size, 8 + length, tensors)
    return header, tensors


def _stored(path: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    dtype, shape, (first, last) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
    if dtype not in WIDTH:
        raise unreadable(
            f"{path}: {name} is of type {dtype}; merges take {', '.join(WIDTH)}.",
            "Integer and quantised weights cannot be merged: dequantise the model first.",
        )
    if any(n < 0 for n in shape) or last - first != prod(shape) * WIDTH[dtype] or first < 0:
        raise unreadable(f"{path}: the offsets of {name} do not fit its shape {list(shape)}.")
    return Stored(name, path, start + first, dtype, shape)


def _must_cover(path: Path, size: int, start: int, tensors: dict[str, Stored]) -> None:
    """The tensors follow one another without gaps or overlap, to the file's end."""
    place = start
    for stored in sorted(tensors.values(), key=lambda t: (t.offset, t.elements)):
        if stored.offset != place:
            raise unreadable(f"{path}: {stored.name} begins at byte {stored.offset}, not at {place}.")
        place += stored.elements * WIDTH[stored.dtype]
    if place != size:
        what = "is cut short" if size < place else "is longer than its header says"
        raise unreadable(f"{path} {what}: {size} bytes of {place}.", "Copy or download that file again.")
