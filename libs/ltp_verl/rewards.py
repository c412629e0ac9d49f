"""What a response is worth, by the recipe's reward; shared by training and by the trial before it. Needs no verl.

A judge returns a number or raises RewardError: what cannot be judged is never a silent zero.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltp.core.scoring import choice_letter, exact, normalised, numeric
from ltp.sandbox.pool import Sandbox, processors

_PLAIN: Mapping[str, Callable[[str, str], bool]] = {"exact": exact, "numeric": numeric, "normalised": normalised}
# Address space of one run: a function may import what it likes, within reason.
_SANDBOX_BYTES = 8 << 30
# For a function to load: long enough to import much, short enough for somebody who waits at the door.
_START_SECONDS = 30.0


class RewardError(Exception):
    """A response that could not be judged, and why."""


@dataclass(frozen=True)
class Asked:
    """One response with what is known of its row."""

    prompt: Sequence[Mapping[str, Any]]
    response: str
    answer: str | None
    data_source: str
    extra_info: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """What a function of the user's sees of the row, as plain JSON values."""
        return {"data_source": self.data_source, "extra_info": dict(self.extra_info)}


Judge = Callable[[Asked], Awaitable[float]]


@asynccontextmanager
async def open_reward(reward: Mapping[str, Any], hidden: Sequence[Path] = ()) -> AsyncIterator[Judge]:
    """The judge of a recipe's reward. Foreign code does not see the directories in `hidden`.

    Raises LtpError for a reward that cannot be loaded, RewardError for a model that cannot.
    """
    kind = reward["kind"]
    if kind == "http":
        from ltp_verl.reward_http import service

        yield service(reward)
    elif kind == "model":
        from ltp_verl.reward_model import model

        yield await asyncio.to_thread(model, reward)
    elif kind == "function" or reward["verifier"] in {"regex", "math", "code"}:
        async with Sandbox(_sandbox_settings(reward), hidden, processors()) as sandbox:
            yield _in_sandbox(sandbox)
    else:
        yield _rule(reward)


def _sandbox_settings(reward: Mapping[str, Any]) -> dict[str, Any]:
    name = "reward" if reward["kind"] == "function" else reward["verifier"]
    return {**reward, "name": name, "memory_bytes": _SANDBOX_BYTES, "start_seconds": _START_SECONDS}


def _rule(reward: Mapping[str, Any]) -> Judge:
    async def judge(asked: Asked) -> float:
        wanted = _answer(asked)
        if reward["verifier"] != "choice":
            return float(_PLAIN[reward["verifier"]](asked.response, wanted))
        letter = choice_letter(wanted, reward["letters"])
        if letter is None:
            raise RewardError(f"the answer {wanted!r} is no letter of {reward['letters']}")
        return float(choice_letter(asked.response, reward["letters"]) == letter)

    return judge


def _in_sandbox(sandbox: Sandbox) -> Judge:
    needs_answer = sandbox.settings["name"] != "reward"

    async def judge(asked: Asked) -> float:
        answer = _answer(asked) if needs_answer else asked.answer
        # A null answer is the function's to judge; JSON carries it as it is.
        found = await sandbox.judge(asked.response, answer, asked.row())
        why = found.get("detail", {}).get("why", "")
        if found.get("failed") or found.get("outcome") == "no_reference":
            raise RewardError(why)
        # An answer in which the rule finds nothing to compare is a wrong one.
        return float(found.get("value", 0.0))

    return judge


def _answer(asked: Asked) -> str:
    if asked.answer is None:
        raise RewardError("the row has no right answer")
    return asked.answer


def finite(value: object, who: str) -> float:
    """A number from outside. Raises RewardError for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RewardError(f"{who} gave {str(value)[:200]!r}, which is no finite number")
    return float(value)
