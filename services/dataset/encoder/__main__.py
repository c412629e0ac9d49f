"""Load the model in argv, then encode what standard input asks for until it closes."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from services.dataset.encoder.model import SentenceModel


def main() -> int:
    """Frames both ways: 4 bytes length, JSON; an answer with vectors is followed by them as float32, little endian."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not break the frames
    try:
        model = SentenceModel.load(Path(sys.argv[1]))
    except Exception as error:
        _send(answers, {"problem": f"{type(error).__name__}: {error}"})
        return 1
    facts = {"dimension": model.dimension, "max_tokens": model.max_tokens, "fingerprint": model.fingerprint}
    _send(answers, facts)
    while (request := _receive(sys.stdin.buffer)) is not None:
        try:
            vectors, truncated = model.encode(request["texts"])
            _send(answers, {"rows": len(vectors), "truncated": truncated}, vectors.tobytes())
        except Exception as error:
            _send(answers, {"problem": f"{type(error).__name__}: {error}"})
    return 0


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    request: dict[str, Any] = json.loads(stream.read(struct.unpack("<I", head)[0]))
    return request


def _send(stream: BinaryIO, facts: dict[str, Any], body: bytes = b"") -> None:
    head = json.dumps(facts).encode()
    stream.write(struct.pack("<I", len(head)) + head + body)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
