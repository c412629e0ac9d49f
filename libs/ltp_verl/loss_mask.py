"""Answers which tokens of a row are trained, by the very dataset class and settings that verl's SFT trainer uses.

`python -m ltp_verl.loss_mask` reads one JSON request a line on standard input and answers each with one JSON line on
standard output, so that one warm process serves many questions. A request names a Parquet file of rows, the model
whose tokenizer and chat template count, and `data`: what the job sets in the trainer's `data` section, by dotted key.
"""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from verl.trainer.sft_trainer import create_sft_dataset
from verl.utils import hf_tokenizer

_UNCUT = 2**31 - 1


@lru_cache(maxsize=2)
def _tokenizer(model: str, stamp: float) -> Any:
    return hf_tokenizer(model, trust_remote_code=False)


def _dataset(request: dict[str, Any], tokenizer: Any) -> Any:
    """Verl's dataset over the file, with the trainer's own defaults and the recipe's overrides."""
    # The trainer's file as it is shipped; composing it whole would need its model and engine groups too.
    import verl.trainer

    shipped = Path(verl.trainer.__file__).parent / "config" / "sft_trainer_engine.yaml"
    config = OmegaConf.load(shipped).data
    for key, value in request["data"].items():
        OmegaConf.update(config, key, value)
    # Uncut, so that what the job's limit takes away can be shown; the cut itself is asked of verl for each row.
    config.max_length = _UNCUT
    return create_sft_dataset(request["file"], config, tokenizer, None)


def _row(dataset: Any, index: int, max_length: int) -> dict[str, Any]:
    """Tokens of one row: ids, the loss mask, and how many the limit keeps."""
    dataset.max_length = _UNCUT
    whole = dataset[index]
    dataset.max_length = max_length
    kept = dataset[index] if len(whole["input_ids"]) > max_length else whole
    ids, mask, size = whole["input_ids"], whole["loss_mask"], len(kept["input_ids"])
    if not torch.equal(kept["input_ids"], ids[:size]):
        raise AssertionError("verl kept other tokens than the first ones")
    return {"ids": ids.tolist(), "mask": mask.tolist(), "kept": size}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Rows with `tokens`, `trained`, `kept` and `kept_trained` counts; with `detail`, also each token's text and mask."""
    model = request["model"]
    stamp = max((f.stat().st_mtime for f in Path(model).glob("*token*")), default=0.0)
    tokenizer = _tokenizer(model, stamp)
    if not getattr(tokenizer, "chat_template", None):
        return {"problem": f"The tokenizer of {model} has no chat template."}
    dataset = _dataset(request, tokenizer)
    rows: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        try:
            row = _row(dataset, index, request["data"]["max_length"])
        # Whatever the template or verl's own check raises is the answer for this row.
        except Exception as error:
            rows.append({"problem": f"{type(error).__name__}: {str(error).splitlines()[0][:500]}"})
            continue
        found = {
            "tokens": len(row["ids"]),
            "trained": sum(row["mask"]),
            "kept": row["kept"],
            "kept_trained": sum(row["mask"][: row["kept"]]),
        }
        if request.get("detail"):
            pieces = tokenizer.convert_ids_to_tokens(row["ids"])
            text = [tokenizer.decode([i]) for i in row["ids"]]
            found["detail"] = [
                {"id": i, "token": p, "text": t, "trained": bool(m), "cut": n >= row["kept"]}
                for n, (i, p, t, m) in enumerate(zip(row["ids"], pieces, text, row["mask"], strict=True))
            ]
        rows.append(found)
    return {"rows": rows}


def main() -> None:
    """Answer until standard input ends."""
    # verl prints as it goes; only answers may reach the asker.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"problem": f"verl cannot use this tokenizer and template: {type(error).__name__}: {error}"[:2000]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
