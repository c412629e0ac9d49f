"""Names for models and operations that follow from their content, so that the same work is known again and not done twice.

A fingerprint is over configuration, headers and samples of every tensor (its first, middle and last 512 bytes): quick enough
to take before every merge, and different for any two trained models. The full digest reads every byte and is taken once, after
the work, for the manifest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ltp.tensors.model_files import WIDTH
from ltp.tensors.plan import Model

# Raised when the same recipe would give other bytes.
ENGINE = 1
_SAMPLE = 512
_BLOCK = 4 << 20


def fingerprint(model: Model) -> str:
    """SHA-256 over what identifies a model with its adapter."""
    digest = hashlib.sha256(json.dumps(model.files.config, sort_keys=True).encode())
    for header in model.files.headers:
        digest.update(header)
    for path in model.files.files:
        stored = sorted((t for t in model.files.tensors.values() if t.file == path), key=lambda t: t.offset)
        with path.open("rb", buffering=0) as stream:
            for tensor in stored:
                size = tensor.elements * WIDTH[tensor.dtype]
                for place in (0, size // 2, max(0, size - _SAMPLE)):
                    stream.seek(tensor.offset + place)
                    digest.update(stream.read(min(_SAMPLE, size - place)))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model.files.path / name).is_file():
            digest.update((model.files.path / name).read_bytes())
    if model.adapter is not None:
        for path in sorted(model.adapter.path.glob("adapter_*")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def stamps(model: Model) -> list[list[int]]:
    """Size and change time of the weight files, which a fingerprint's samples might miss a change of."""
    return [[(stat := path.stat()).st_size, stat.st_mtime_ns] for path in model.files.files]


def operation_digest(kind: str, recipe: dict[str, Any], prints: dict[str, str], seed: int) -> str:
    """SHA-256 of an operation: what is done to what. Paths do not count, content does."""
    text = json.dumps([ENGINE, kind, recipe, prints, seed], sort_keys=True)
    for reference, print_ in sorted(prints.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(json.dumps(reference), json.dumps(print_))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
