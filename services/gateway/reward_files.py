"""The user's reward function, read at the door into the recipe: what was tried is what runs, whatever becomes of the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ltp.contracts.recipe import Recipe
from ltp.contracts.recipe_reward import MOST_SOURCE, FunctionReward, ModelReward
from ltp.core.errors import ErrorCode, LtpError
from services.gateway.settings import GatewaySettings


def roots_of(settings: GatewaySettings) -> list[Path]:
    """Directories that reward functions may lie in; relative names are looked up in the first."""
    more = [Path(part) for part in settings.reward_roots.split(os.pathsep) if part]
    return [path.resolve() for path in (settings.root() / "rewards", *more)]


def with_reward(recipe: Recipe, settings: GatewaySettings) -> Recipe:
    """The recipe with its reward's source and its reward model's absolute path spelt out.

    Raises LtpError: INVALID_RECIPE (a file outside the allowed directories, or no text of a function), NOT_FOUND.
    """
    section = recipe.reinforcement
    if section is None or section.reward is None:
        return recipe
    reward = section.reward
    if isinstance(reward, FunctionReward) and reward.source is None:
        reward = reward.model_copy(update={"source": _source(reward.file, roots_of(settings))})
    elif isinstance(reward, ModelReward):
        reward = reward.model_copy(update={"model": str(settings.root() / "models" / reward.model)})
    return recipe.model_copy(update={"reinforcement": section.model_copy(update={"reward": reward})})


def _source(name: str, roots: Sequence[Path]) -> str:
    try:
        path = (roots[0] / name).resolve()
        inside = any(path.is_relative_to(root) for root in roots)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refused(name, "is no path of a file") from error
    if not inside:
        allowed = ", ".join(map(str, roots))
        raise _refused(name, f"leads to {path}, outside of the directories that rewards may lie in: {allowed}")
    try:
        if not path.is_file():
            raise LtpError(ErrorCode.NOT_FOUND, f"There is no reward file {path}.", f"Write it under {roots[0]}.")
        with path.open("rb") as file:
            content = file.read(MOST_SOURCE + 1)
        source = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(name, f"cannot be read as a text: {error}") from error
    if len(content) > MOST_SOURCE:
        raise _refused(name, f"is larger than {MOST_SOURCE} bytes")
    try:
        # Parsed, never run: running it is the sandbox's business.
        compile(source, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(name, f"is no Python: {error}") from error
    return source


def _refused(name: str, why: str) -> LtpError:
    hint = "Put the file under DATA/rewards, or name its directory in LTP_REWARD_ROOTS."
    return LtpError(ErrorCode.INVALID_RECIPE, f"reinforcement.reward.file {name!r} {why}.", hint)
