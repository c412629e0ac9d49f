"""Proves that a written model is one: it loads in transformers, its tokenizer gives a text back, and it expects plain English.

`python -m ltp.tensors.proof DIRECTORY` prints one JSON line. A process of its own, since it alone needs transformers and may
have another interpreter.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

CANARY = Path(__file__).with_name("canary.txt")
# A model that fills the memory of its host would take others down with it.
_SHARE_OF_MEMORY = 0.6


def prove(directory: Path) -> dict[str, Any]:
    """What was tried and how it went; `skipped` says why something was not. Raises whatever transformers raises."""
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached_bytes()
    if weights > free * _SHARE_OF_MEMORY:
        return {"skipped": f"{weights / 1e9:.1f} GB of weights and {free / 1e9:.1f} GB of free memory"}
    # Both take seconds to import, and a skipped proof needs neither.
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
        model.eval()
        found: dict[str, Any] = {"loads": True, "parameters": sum(int(p.numel()) for p in model.parameters())}
        if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            return found | {"round_trip": None, "perplexity": None, "skipped": "the model has no tokenizer"}
        return found | _read(model, directory)


def _read(model: Any, directory: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    lines = CANARY.read_text().splitlines()
    coded = [tokenizer(line)["input_ids"] for line in lines]
    back = [tokenizer.decode(ids, skip_special_tokens=True) for ids in coded]
    loss, tokens = 0.0, 0
    rows = int(model.get_input_embeddings().weight.shape[0])
    for ids in coded:
        if len(ids) < 2 or max(ids) >= rows:
            continue
        inputs = torch.tensor([ids])
        loss += float(model(input_ids=inputs, labels=inputs).loss) * (len(ids) - 1)
        tokens += len(ids) - 1
    perplexity = math.exp(min(loss / tokens, 700.0)) if tokens else None
    finite = perplexity is not None and math.isfinite(perplexity)
    return {
        "round_trip": [text.strip() for text in back] == lines,
        "perplexity": perplexity if finite else None,
        "canary_tokens": tokens,
        "finite": finite,
    }


def _cached_bytes() -> int:
    """Page cache, which gives way."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> int:
    """Exit code 1 when the model is none, with the reason in the JSON."""
    try:
        found = prove(Path(sys.argv[1]))
    except ImportError as error:
        found = {"skipped": f"{error.name or error} is not installed for {sys.executable}"}
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(json.dumps({"loads": False, "problem": f"{type(error).__name__}: {lines[0]}"[:500]}))
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
