"""The reward of a response, by the recipe's scorer; verl drops prompts whose reward raises, so errors are counted."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from ltp.core.scoring import score


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | None,
    extra_info: dict[str, Any] | None = None,
    *,
    scorer: str = "exact",
    **_: Any,
) -> float:
    """1.0 for a right answer, else 0.0.

    A scorer that raises gives 0.0 and one line of JSON in the file named by LTP_REWARD_ERRORS.
    """
    try:
        return float(score(scorer, solution_str, _required(ground_truth)))
    except Exception as error:
        _record(error, data_source, extra_info)
        return 0.0


def _required(ground_truth: str | None) -> str:
    if ground_truth is None:
        raise ValueError("the row has no right answer")
    return ground_truth


def _record(error: Exception, data_source: str, extra_info: dict[str, Any] | None) -> None:
    path = os.environ.get("LTP_REWARD_ERRORS")
    if path is None:
        return
    row = str((extra_info or {}).get("id", ""))
    line = json.dumps({"error": f"{type(error).__name__}: {error}", "data_source": data_source, "row": row})
    # One write of one line in append mode, so that many workers can share the file; a full disk must not end training.
    with suppress(OSError), open(path, "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")
