"""Turns a verl checkpoint (FSDP or Megatron) into a Hugging Face model directory, and believes it only after reading it back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import Architecture, read_architecture, weight_shapes
from ltp.tensors.adapted_checkpoint import AdaptedCheckpoint, is_adapted
from ltp.tensors.fsdp_checkpoint import ShardedCheckpoint, export_failed, read_json
from ltp.tensors.megatron_checkpoint import DIST, MegatronCheckpoint
from ltp.tensors.shards import memory_of, same_bits
from ltp.tensors.weights_file import DTYPE_NAMES, Entry, write_weights

DTYPES = {"keep": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MAX_FILE_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Configuration, tokenizer and chat template; code and weights that lie beside them are not taken over.
_COPIED = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Exported:
    """The answer. `weights_sha256` is over names, types, shapes and values in name order, however they are filed."""

    path: str
    size_bytes: int
    weights_sha256: str
    tensors: int


class Source:
    """The weights of a model as they are to be written: those its configuration names, in the type asked for."""

    def __init__(self, directory: Path, dtype: torch.dtype | None) -> None:
        self.files = directory / "huggingface"
        self.config = read_json(self.files / "config.json")
        arch = read_architecture(self.config)
        self.adapted: AdaptedCheckpoint | None = None
        self._checkpoint: ShardedCheckpoint | AdaptedCheckpoint | MegatronCheckpoint
        if (directory / DIST).is_dir():
            self._checkpoint = MegatronCheckpoint(directory / DIST, arch)
        else:
            shards = ShardedCheckpoint(directory)
            # A checkpoint of LoRA training is exported as the model it stands for, with the adapter in a folder of its own.
            self.adapted = AdaptedCheckpoint(directory, shards) if is_adapted(directory, shards) else None
            self._checkpoint = self.adapted or shards
        self._dtype = dtype
        self.entries = [self._entry(name, shape) for name, shape in self._expected(arch)]

    def _expected(self, arch: Architecture) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes, once the checkpoint has exactly them. A tied head must equal the embedding it repeats."""
        shapes, found = weight_shapes(arch), self._checkpoint.names
        if arch.tied and HEAD in found:
            if not same_bits(self._checkpoint.weight(HEAD), self._checkpoint.weight(EMBEDDING)):
                raise export_failed(f"config.json ties {HEAD} to {EMBEDDING}, but the two differ in the checkpoint.")
            found = [name for name in found if name != HEAD]
        missing, strange = sorted(shapes.keys() - set(found)), sorted(set(found) - shapes.keys())
        if missing or strange:
            what = [f"lacks {missing[0]}"] if missing else []
            what += [f"has {strange[0]}, which the model has not"] if strange else []
            raise export_failed(
                f"The checkpoint {' and '.join(what)} ({len(missing)} missing, {len(strange)} strange)."
            )
        return list(shapes.items())

    def _entry(self, name: str, shape: tuple[int, ...]) -> Entry:
        if self._checkpoint.shape(name) != shape:
            raise export_failed(f"{name} has shape {self._checkpoint.shape(name)}, and config.json means {shape}.")
        dtype = self._dtype or self._checkpoint.dtype(name)
        if dtype not in DTYPE_NAMES:
            raise export_failed(f"{name} is of type {dtype}, which is no type of trained weights.")
        return Entry(name, dtype, shape)

    def weight(self, name: str) -> torch.Tensor:
        """The weight in its final type."""
        weight = self._checkpoint.weight(name)
        return weight if self._dtype is None else weight.to(self._dtype)

    def sound_weight(self, name: str) -> torch.Tensor:
        """The weight, if it is finite: no model can run with one that is not."""
        weight = self.weight(name)
        # NaN passes through both; one pass, where `isfinite` over the whole makes several.
        if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(weight)):
            raise export_failed(f"{name} holds NaN or infinity.", "The training diverged; export an earlier step.")
        return weight


def export(checkpoint: Path, out: Path, *, dtype: str = "keep", max_file_bytes: int = MAX_FILE_BYTES) -> Exported:
    """Write the model to `out`, which appears whole or not at all, and verify it against the shards.

    An `out` that already holds exactly this model is verified and kept, so that a repeated export is harmless.
    Raises LtpError: EXPORT_FAILED, MODEL_UNREADABLE (an architecture that is not supported), DISK_FULL.
    """
    source = Source(checkpoint, DTYPES[dtype])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            return _answer(out, verify_model(out, source), source)
        except LtpError as error:
            message = f"{out} exists and is not this export: {error.message}"
            raise export_failed(message, "Remove it, or export to another directory.") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_space(out.parent, source.entries)
    staging = Path(tempfile.mkdtemp(prefix=".export-", dir=out.parent))
    try:
        staging.chmod(0o755)
        write_model(staging, source, max_file_bytes)
        digest = verify_model(staging, source)
        for path in (*staging.rglob("*"), staging):
            _sync(path)
        staging.rename(out)
        _sync(out.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _answer(out, digest, source)


def _answer(out: Path, digest: str, source: Source) -> Exported:
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Exported(str(out), size, digest, len(source.entries))


def _check_space(directory: Path, entries: Sequence[Entry]) -> None:
    need, free = sum(entry.size_bytes for entry in entries), shutil.disk_usage(directory).free
    if need > free:
        message = f"The model needs {need / 1e9:.2f} GB, and {directory} has {free / 1e9:.2f} GB left."
        raise LtpError(ErrorCode.DISK_FULL, message, "Free space there, or export as bfloat16.")


def _files(entries: Sequence[Entry], max_bytes: int) -> dict[str, list[Entry]]:
    """File name -> its weights, filled in the model's order up to `max_bytes` each."""
    groups: list[list[Entry]] = [[]]
    for entry in entries:
        if groups[-1] and sum(other.size_bytes for other in groups[-1]) + entry.size_bytes > max_bytes:
            groups.append([])
        groups[-1].append(entry)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, start=1)}


def write_model(directory: Path, source: Source, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Weights and settings into an existing directory. Raises EXPORT_FAILED for weights that are not finite."""
    _copy_settings(source, directory)
    files = _files(source.entries, max_file_bytes)
    for file, entries in files.items():
        wide_first = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
        write_weights(directory / file, wide_first, source.sound_weight)
    if len(files) > 1:
        total = sum(entry.size_bytes for entry in source.entries)
        weight_map = {entry.name: file for file, entries in files.items() for entry in entries}
        _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    if source.adapted is not None:
        shutil.rmtree(directory / ADAPTER, ignore_errors=True)
        source.adapted.write_adapter(directory / ADAPTER, source.config.get("_name_or_path"))


def _copy_settings(source: Source, directory: Path) -> None:
    names = {path.name for path in source.files.iterdir() if path.is_file() and path.suffix in _COPIED}
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise export_failed(f"{source.files} holds no tokenizer.")
    for name in names - {"config.json", INDEX}:
        shutil.copyfile(source.files / name, directory / name)
    # transformers 5 reads `dtype`; version 4 knew `torch_dtype`, which must not contradict it.
    embedding = next(entry for entry in source.entries if entry.name == EMBEDDING)
    config = source.config | {"dtype": str(embedding.dtype).removeprefix("torch.")}
    if "torch_dtype" in config:
        config["torch_dtype"] = config["dtype"]
    _write_json(directory / "config.json", config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def verify_model(directory: Path, source: Source) -> str:
    """Read the files back and compare every weight with the shards, bit for bit. Returns the hash of the weights."""
    digest = hashlib.sha256()
    expected = {entry.name: entry for entry in source.entries}
    for name, weight in _weights(directory, expected):
        if not same_bits(weight, source.weight(name)):
            raise export_failed(f"{name} in {directory} differs from the checkpoint.")
        digest.update(f"{name} {DTYPE_NAMES[weight.dtype]} {list(weight.shape)}\n".encode())
        digest.update(memory_of(weight))
    return digest.hexdigest()


def _weights(directory: Path, expected: dict[str, Entry]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the directory in name order. Raises when the names are not exactly those expected."""
    try:
        opened = [safe_open(path, framework="pt") for path in sorted(directory.glob("*.safetensors"))]
        holders = [(name, file) for file in opened for name in file.keys()]  # noqa: SIM118 - no mapping
    except Exception as error:
        raise export_failed(f"{directory} cannot be read back: {error}.") from error
    if sorted(name for name, _ in holders) != sorted(expected):
        raise export_failed(f"{directory} holds other weights than its configuration names.")
    for name, file in sorted(holders, key=lambda holder: holder[0]):
        yield name, file.get_tensor(name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
