"""Which part of a checkpoint holds the weights, and where the models of a recipe lie. Pure."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import check_merge


def weights_of(checkpoint: Path) -> Path:
    """The folder with the model's shards: `actor/` in checkpoints of RL, the checkpoint itself in those of SFT."""
    actor = checkpoint / "actor"
    return actor if actor.is_dir() else checkpoint


def located(kind: str, recipe: dict[str, Any], models: Path) -> dict[str, Any]:
    """The recipe with every model as an absolute path; names are looked up under `models`.

    Raises INVALID_RECIPE, and INVALID_REQUEST for a name that leads out of `models`.
    """
    if kind == "merge":
        merge = check_merge(recipe)
        return merge.with_references({name: _absolute(name, models) for name in merge.paths()}).settings()
    named = {key: _absolute(str(recipe[key]), models) for key in ("model", "base_model") if recipe.get(key)}
    return recipe | named


def _absolute(reference: str, models: Path) -> str:
    """`model` or `model+adapter`, each part made absolute."""
    if Path(reference).is_absolute() and "+" not in reference:
        return reference
    return "+".join(_one(part, models) for part in reference.split("+", 1))


def _one(name: str, models: Path) -> str:
    if ".." in PurePosixPath(name).parts:
        message = f"The model {name} leads out of its directory."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give an absolute path or a name under DATA/models.")
    return str(models / name)
