"""Which model a directory holds, by the content of its files, read once as long as they do not change."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError

# What decides an answer: weights, configuration, tokenizer, template. Not the model card.
_KINDS = (".safetensors", ".json", ".jinja", ".model", ".txt")


def check_model(path: Path) -> None:
    """Raises LtpError MODEL_NOT_FOUND or MODEL_UNREADABLE, saying what the directory lacks."""
    if not path.is_dir():
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, f"There is no model directory {path}.", "Give a directory.")
    names = {entry.name for entry in path.iterdir()}
    if "config.json" not in names:
        hint = "Give a directory in Hugging Face format; a training checkpoint is evaluated by its id."
        raise LtpError(ErrorCode.MODEL_UNREADABLE, f"{path} has no config.json.", hint)
    if not any(name.endswith(".safetensors") for name in names):
        sharded = any(name.startswith("model_world_size_") for name in names)
        what = "holds FSDP shards that were not merged" if sharded else "has no *.safetensors"
        hint = "Evaluate the checkpoint by its id: it is exported for that." if sharded else "Save it as safetensors."
        raise LtpError(ErrorCode.MODEL_UNREADABLE, f"{path} {what}.", hint)
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"}:
        raise LtpError(ErrorCode.MODEL_UNREADABLE, f"{path} has no tokenizer.", "Copy the tokenizer's files there.")


def fingerprint_of(path: Path) -> str:
    """SHA-256 over the model's files, as `sha256:…`. Reads them all the first time, and again when one changed."""
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix in _KINDS)
    stats = [(str(file), entry.st_size, entry.st_mtime_ns, entry.st_ino) for file in files for entry in [file.stat()]]
    return _digest(tuple(stats))


def weights_bytes(path: Path) -> int:
    """The size of the weights on the disk."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


@lru_cache(maxsize=128)
def _digest(stats: tuple[tuple[str, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _, _ in stats:
        digest.update(f"{Path(name).name} {size}\n".encode())
        with Path(name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
