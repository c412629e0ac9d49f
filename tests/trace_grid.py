"""The grid on which the memory model is held against traces of the models' own code: true layer shapes, few layers.

`python -m tests.trace_grid` writes tests/data/traces.jsonl anew (minutes, needs torch and transformers). Quick tests read that
file; a slow one traces again and compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ltp.core.known_models import known_config

RECORDED = Path(__file__).parent / "data" / "traces.jsonl"
# A small vocabulary, or the loss head would hide the layers.
LAYERS, VOCABULARY = 3, 32768
NAMES = (
    "qwen2.5-0.5b", "llama3.2-1b", "qwen3-0.6b", "llama3.1-8b", "smollm3-3b", "mistral-7b", "mistral-7b-v0.3",
    "gemma-2b", "gemma2-2b", "gemma3-1b", "phi-2", "phi-3-mini", "phi-4-mini", "starcoder2-3b", "granite-3.1-2b",
    "olmo-1b", "olmo2-1b", "olmo2-7b", "olmoe-1b-7b", "mixtral-8x7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b",
    "deepseek-v2-lite", "moonlight-16b",
)  # fmt: skip
# Checkpointing, LoRA rank.
KINDS = ((True, 0), (False, 0), (True, 16), (False, 16))


def asked() -> Iterator[dict[str, Any]]:
    """What is traced: a model's name, its config cut to a few layers, and the step."""
    for name in NAMES:
        for checkpointing, rank in KINDS:
            # peft 0.21 wraps this family's router in a way that its own code cannot call.
            if not (rank and name.startswith("moonlight")):
                yield _case(name, 4, 1024, checkpointing, rank)
    # At a sliding window the mask is a real tensor; with padded rows it always is.
    for name in ("mistral-7b", "gemma2-2b"):
        for checkpointing, rank in KINDS[:2]:
            yield _case(name, 2, 4096, checkpointing, rank)
    for name in ("llama3.2-1b", "qwen3-0.6b", "gemma3-1b", "phi-3-mini", "qwen3-30b-a3b"):
        for checkpointing, rank in KINDS[:3]:
            yield _case(name, 4, 1024, checkpointing, rank, padded=True)


def _case(name: str, micro_batch: int, sequence: int, checkpointing: bool, rank: int, **more: Any) -> dict[str, Any]:
    config = known_config(name)
    assert config is not None, name
    config |= {"num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "pad_token_id": 0}
    step = {"micro_batch": micro_batch, "sequence": sequence, "checkpointing": checkpointing, "lora_rank": rank, **more}
    return {"name": name, "config": config, "step": step}


def traced(case: dict[str, Any]) -> dict[str, Any]:
    """The trace's answer."""
    from ltp.tensors.trace_memory import trace

    try:
        return trace(case["config"], case["step"])
    except Exception as error:  # the file says what could not be traced
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def recorded() -> list[dict[str, Any]]:
    """The cases of the file with what was traced."""
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


def main(file: Path = RECORDED, only: str = "") -> None:
    """Trace everything, or what has `only` in its name."""
    cases = [case for case in asked() if only in case["name"]]
    with ProcessPoolExecutor(2) as pool, file.open("w") as out:
        for case, answer in zip(cases, pool.map(traced, cases), strict=True):
            out.write(json.dumps(case | {"traced": answer}) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*([Path(sys.argv[1]), *sys.argv[2:]] if len(sys.argv) > 1 else []))
