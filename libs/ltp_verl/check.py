"""Tries what only an installed verl can tell about a recipe, before anything is launched: its overrides and its reward.

`python -m ltp_verl.check` reads one JSON request on standard input and writes one JSON answer as the last line of its
standard output: {"missing": [...], "faults": [...], "trials": [...]}.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ltp.core.errors import LtpError
from ltp_verl.rewards import Asked, Judge, RewardError, open_reward


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request with `algorithm`, `emitted`, `overrides`, and, to try it, `reward` with `file` and `rows`.

    `packages` are looked for, and not imported.
    """
    missing = [name for name in request.get("packages", ()) if importlib.util.find_spec(name) is None]
    found: list[str] = []
    trials: list[dict[str, Any]] = []
    if request["overrides"]:
        from ltp_verl.check_overrides import faults

        found = faults(request["algorithm"], request["emitted"], request["overrides"])
    if request.get("reward") is not None and not found:
        try:
            trials = asyncio.run(_tried(request))
        except (LtpError, RewardError) as error:
            found = [str(error)]
    return {"missing": missing, "faults": found, "trials": trials}


async def _tried(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    hidden = [Path(path) for path in request.get("hidden", [])]
    async with open_reward(request["reward"], hidden) as judge:
        return [await _trial(judge, row) for row in _rows(Path(request["file"]), request["rows"])]


async def _trial(judge: Judge, row: Mapping[str, Any]) -> dict[str, Any]:
    truth = (row.get("reward_model") or {}).get("ground_truth")
    extra = row.get("extra_info") or {}
    prompt, name = row["prompt"], str(extra.get("id", ""))
    scores: list[float] = []
    for response in (truth or "", ""):
        try:
            scores.append(await judge(Asked(prompt, response, truth, str(row.get("data_source")), extra)))
        except RewardError as error:
            return {"row_id": name, "problem": str(error)[:1000]}
    return {"row_id": name, "answer_score": scores[0], "empty_score": scores[1]}


def _rows(file: Path, count: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    columns = ["prompt", "data_source", "reward_model", "extra_info"]
    for batch in pq.ParquetFile(file).iter_batches(batch_size=count, columns=columns):
        yield from batch.to_pylist()
        return


def main() -> None:
    """Answer, on the standard output that was there before others began to print on it."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(answer(json.load(sys.stdin)), reply)
    reply.write("\n")
    reply.flush()


if __name__ == "__main__":
    main()
