"""The platform's rewards as a reward manager of verl's, which loads this file by its path.

verl drops the prompts whose reward raises and trains on the rest. Here such a response gets 0 and one line in the file
named by LTP_REWARD_ERRORS, which the trainer counts into the metric `reward/errors`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from ltp_verl.rewards import Asked, Judge, open_reward


class PlatformRewards(RewardManagerBase):
    """One for each of verl's reward workers; the judge is opened at the first response and lives as long as the worker."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.reward: dict[str, Any] = json.loads(os.environ["LTP_REWARD"])
        self._stack = AsyncExitStack()
        self._judge: Judge | None = None
        self._opening = asyncio.Lock()

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The reward of one response: its score, less what its length costs."""
        last: Any = data[-1:]
        item = last[0]
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
        return await self.judged(responses[:length], item.non_tensor_batch)

    async def judged(self, tokens: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """As `run_single`, of the tokens of a response to a row of the data set."""
        tokenizer: Any = self.tokenizer
        length = len(tokens)
        text = await self.loop.run_in_executor(None, lambda: tokenizer.decode(tokens, skip_special_tokens=True))
        asked = _asked(row, text)
        failed = 0.0
        try:
            score = await (await self._opened())(asked)
        # Whatever a reward does, one response must not end the run, nor vanish from it.
        except Exception as error:
            record(error, asked)
            score, failed = 0.0, 1.0
        extra = {"acc": score, "reward_error": failed}
        return {"reward_score": score - self._too_long(length), "reward_extra_info": extra}

    async def _opened(self) -> Judge:
        async with self._opening:
            if self._judge is None:
                hidden = [Path(path) for path in os.environ.get("LTP_HIDDEN", "").split(os.pathsep) if path]
                self._judge = await self._stack.enter_async_context(open_reward(self.reward, hidden))
            return self._judge

    def _too_long(self, length: int) -> float:
        """Soft overlong punishment (Q. Yu et al. 2025, arXiv:2503.14476, eq. 13): linear over the last tokens."""
        overlong = self.reward.get("overlong")
        if overlong is None:
            return 0.0
        over = length - (self.reward["max_response_length"] - overlong["buffer"])
        return overlong["penalty"] * min(1.0, max(0.0, over / overlong["buffer"]))


def record(error: Exception, asked: Asked) -> None:
    """One line about a response that could not be judged."""
    path = os.environ.get("LTP_REWARD_ERRORS")
    if path is None:
        return
    message = f"{type(error).__name__}: {error}"[:1000]
    line = json.dumps({"error": message, "data_source": asked.data_source, "row": str(asked.extra_info.get("id", ""))})
    # One write of one line in append mode, so that many workers can share the file; a full disk must not end training.
    with suppress(OSError), open(path, "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def _asked(row: Mapping[str, Any], response: str) -> Asked:
    truth = row["reward_model"].get("ground_truth")
    return Asked(
        prompt=list(row.get("raw_prompt", ())),
        response=response,
        answer=None if truth is None else str(truth),
        data_source=str(row["data_source"]),
        extra_info=_plain(dict(row.get("extra_info") or {})),
    )


def _plain(value: Any) -> Any:
    """Values as JSON knows them: verl hands NumPy's through from the Parquet file."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
