"""The mean loss per token of a model on held-out texts: what a greedy soup asks of its candidates.

`python -m ltp.tensors.held_out MODEL TEXTS [MAX_ROWS]` prints one JSON line. A process of its own, since it alone needs
transformers and may have another interpreter. Rows of a .jsonl are {"text"}, {"messages"} or {"prompt", "response"}, of which
only the response counts.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

_MAX_TOKENS, _MAX_ROWS = 1024, 512


def read_texts(path: Path, limit: int) -> list[dict[str, Any]]:
    """The rows of a file. Raises ValueError naming the line that is none."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row: Any = {"text": line} if path.suffix != ".jsonl" else json.loads(line)
        if not isinstance(row, dict) or not ({"text", "messages"} & row.keys() or {"prompt", "response"} <= row.keys()):
            raise ValueError(f"line {number} of {path} has neither text, messages nor prompt and response")
        rows.append(row)  # pyright: ignore[reportUnknownArgumentType]
        if len(rows) == limit:
            break
    if not rows:
        raise ValueError(f"{path} holds no text")
    return rows


def coded(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], int]:
    """Tokens, and how many of them come before what counts (at least one: the first token is given, not predicted)."""
    if "messages" in row:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"][:_MAX_TOKENS], 1
    if "text" in row:
        return tokenizer(str(row["text"]))["input_ids"][:_MAX_TOKENS], 1
    prompt = tokenizer(str(row["prompt"]))["input_ids"]
    response = tokenizer(str(row["response"]), add_special_tokens=False)["input_ids"]
    return (prompt + response)[-_MAX_TOKENS:], max(1, min(len(prompt), _MAX_TOKENS - len(response)))


def measure(model_path: Path, texts: Path, limit: int) -> dict[str, Any]:
    """{loss, tokens, rows}; the loss is infinite where it is not finite, since JSON and comparisons know no NaN."""
    rows = read_texts(texts, limit)
    # Both take seconds to import, which a bad file should not cost.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    total, tokens = 0.0, 0
    with torch.inference_mode():
        model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
        model.eval()
        for row in rows:
            ids, first = coded(tokenizer, row)
            if len(ids) <= first:
                continue
            inputs = torch.tensor([ids])
            logits = model(input_ids=inputs).logits[0, first - 1 : -1].float()
            total += float(torch.nn.functional.cross_entropy(logits, inputs[0, first:], reduction="sum"))
            tokens += len(ids) - first
    if not tokens:
        raise ValueError(f"{texts} holds no text of two tokens or more")
    loss = total / tokens
    return {"loss": loss if math.isfinite(loss) else math.inf, "tokens": tokens, "rows": len(rows)}


def main() -> int:
    """Exit code 1 with the reason as the last line of standard error."""
    try:
        limit = int(sys.argv[3]) if len(sys.argv) > 3 else _MAX_ROWS
        print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), limit)))
    except Exception as error:
        print(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
