"""Tries a recipe's overrides and reward in a process with verl, under a clock, before it becomes a job."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.contracts.recipe_check import RecipeCheckAsked, RecipeChecked, RewardTrial
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe.settings_rl import reward_of
from ltp.verl_recipe.verl_0_9 import planned_overrides

_ROWS = 4
_SECONDS = 100.0
_REPLY_BYTES = 1 << 22
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")


def needs_check(recipe: Recipe) -> bool:
    """Whether there is anything that only a try can tell: the platform's own settings are tested with it."""
    section = recipe.reinforcement
    return bool(recipe.overrides or recipe.tracking) or (section is not None and section.reward is not None)


async def check_recipe(asked: RecipeCheckAsked, python: str, root: Path) -> RecipeChecked:
    """Try what the recipe brings along. Raises INVALID_RECIPE, REWARD_FAILED, DEPENDENCY_MISSING, SERVICE_UNAVAILABLE."""
    if not needs_check(asked.recipe):
        return RecipeChecked(checked=False, why="the recipe has no overrides, no reward of its own and no sinks")
    found = await _ask(python, _request(asked, root))
    if found["missing"]:
        message = f"tracking: the training environment has no package {', '.join(found['missing'])}."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Install the extra `tracking` there, or leave it out.")
    if found["faults"]:
        code = ErrorCode.INVALID_RECIPE if asked.recipe.overrides else ErrorCode.REWARD_FAILED
        hint = "docs/recipes.md says what may be overridden, and how a reward is written."
        raise LtpError(code, "; ".join(found["faults"][:8]), hint)
    trials = [RewardTrial.model_validate(trial) for trial in found["trials"]]
    return RecipeChecked(checked=True, trials=trials, warnings=_judged(trials))


def _judged(trials: list[RewardTrial]) -> list[str]:
    """Warnings about trials that worked. Raises REWARD_FAILED where one did not: training would count them by thousands."""
    broken = [trial for trial in trials if trial.problem is not None]
    if broken:
        what = f"The reward failed on {len(broken)} of {len(trials)} rows of the dataset that it was tried on"
        message = f"{what}, first on {broken[0].row_id or 'an unnamed row'}: {broken[0].problem}"
        raise LtpError(ErrorCode.REWARD_FAILED, message, "Mend it and submit again; nothing was started.")
    if trials and len({(trial.answer_score, trial.empty_score) for trial in trials}) == 1:
        first = trials[0]
        if first.answer_score == first.empty_score:
            return [f"The reward gave {first.answer_score:g} for every row's answer and for empty responses alike."]
    return []


def _request(asked: RecipeCheckAsked, root: Path) -> dict[str, Any]:
    recipe = asked.recipe
    emitted: list[str] = []
    if asked.plan is not None:
        emitted = planned_overrides(recipe.model_copy(update={"overrides": []}), asked.plan)
    request: dict[str, Any] = {
        "algorithm": recipe.algorithm, "emitted": emitted, "overrides": recipe.overrides, "hidden": [str(root)],
        "packages": recipe.tracking,
    }  # fmt: skip
    if recipe.reinforcement is not None and recipe.reinforcement.reward is not None:
        train = asked.dataset.splits[recipe.dataset.train_split]
        request |= {"reward": reward_of(recipe), "file": train.path, "rows": _ROWS}
    return request


def _environment() -> dict[str, str]:
    """Nothing of the platform's secrets: foreign code is near."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"HF_HUB_OFFLINE": "1"}


async def _ask(python: str, request: dict[str, Any]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        python, "-m", "ltp_verl.check", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_REPLY_BYTES, env=_environment()
    )
    try:
        # Not wait_for: on Python 3.11 it may forget that it was cancelled.
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate(json.dumps(request).encode())
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        message = f"The overrides and the reward could not be tried within {_SECONDS:g} s."
        raise LtpError(ErrorCode.REWARD_FAILED, message, "Give the reward a shorter timeout_seconds.") from error
    try:
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        why = await _missing(python) or f"it ended with {process.returncode}"
        message = f"{python} could not try the recipe ({why})."
        hint = "Install the extra `training` there, or name its interpreter with LTP_RUNNER_PYTHON."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, hint) from None
    return found


async def _missing(python: str) -> str:
    """What an interpreter says that cannot even import our part, without a recipe's code near; empty where it can."""
    process = await asyncio.create_subprocess_exec(
        python, "-c", "import ltp_verl.check", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env=_environment()
    )
    try:
        async with asyncio.timeout(_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    lines = said.decode(errors="replace").split("\n") if process.returncode else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
