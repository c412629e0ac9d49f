"""The peer's side of part `ingest`: Hugging Face `datasets` loads a JSONL file and computes the statistics of ours.

Run by `tests.bench.ingest` with the interpreter of the peer's own environment: `python peer.py FILE CACHE`.
Written as its documentation does: `load_dataset`, one batched `map` in two processes for the lengths, and numpy and
Counter over columns for the rest. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

import numpy as np
from datasets import load_dataset

FIELDS = ("tenant", "difficulty", "source")


def lengths(batch: dict[str, list]) -> dict[str, list]:
    """Characters and turns of each row of a batch."""
    rows = batch["messages"]
    return {
        "characters": [sum(len(turn["content"]) for turn in row) for row in rows],
        "response_characters": [len(row[-1]["content"]) for row in rows],
        "turns": [len(row) for row in rows],
    }


def numbers(values: np.ndarray) -> dict[str, float]:
    """Count, extremes, mean, quantiles, and a histogram of 20 bins."""
    values = values.astype(np.float64)
    counts, _ = np.histogram(values, bins=20)
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    return {
        "count": len(values), "min": float(values.min()), "max": float(values.max()), "mean": float(values.mean()),
        "std": float(values.std()), "p50": float(quantiles[2]), "p95": float(quantiles[4]),
        "histogram": int(counts.sum()),
    }  # fmt: skip


def main(path: str, cache: str) -> None:
    """Load, measure, print."""
    began = time.perf_counter()
    rows = load_dataset("json", data_files=path, split="train", cache_dir=cache)
    loaded = time.perf_counter()
    # The copies that ours leaves out, and the split by hash, are not asked of the peer.
    measured = rows.map(lengths, batched=True, num_proc=2, remove_columns=rows.column_names)
    found = {name: numbers(np.array(measured.with_format("numpy")[name])) for name in measured.column_names}
    found["score"] = numbers(np.array(rows.with_format("numpy")["score"]))
    values = {name: rows[name][:] for name in FIELDS}
    counts = {name: Counter(values[name]) for name in FIELDS}
    pairs = {"difficulty x tenant": Counter(zip(values["difficulty"], values["tenant"], strict=True))}
    pairs["difficulty x source"] = Counter(zip(values["difficulty"], values["source"], strict=True))
    pairs["source x tenant"] = Counter(zip(values["source"], values["tenant"], strict=True))
    ended = time.perf_counter()
    answer = {
        "seconds": ended - began,
        "load_seconds": loaded - began,
        "rows": len(rows),
        "numbers": found,
        "values": {name: {str(k): v for k, v in count.items()} for name, count in counts.items()},
        "pairs": {name: sum(count.values()) for name, count in pairs.items()},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
