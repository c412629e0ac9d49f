"""Which part of a checkpoint holds the weights, and where the models of a recipe lie. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from uuid import UUID

from ltp.contracts.checkpoint_recipes import RECIPES, AverageRecipe, check_checkpoint_recipe, invalid
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import check_merge


def weights_of(checkpoint: Path) -> Path:
    """The folder with the model's shards: `actor/` in checkpoints of RL, the checkpoint itself in those of SFT."""
    actor = checkpoint / "actor"
    return actor if actor.is_dir() else checkpoint


@dataclass(frozen=True)
class Exported:
    """A checkpoint of a job: its shards, and its model directory once there is one."""

    checkpoint_id: UUID
    job_id: UUID
    step: int
    source: str
    path: str | None


def mentioned(kind: str, recipe: dict[str, Any]) -> list[UUID]:
    """Ids among the references: of checkpoints, or of jobs."""
    named = [recipe.get("model"), recipe.get("base_model")]
    if kind == "average" and isinstance(recipe.get("models"), list):
        named += cast("list[Any]", recipe["models"])
    if kind == "select" and isinstance(recipe.get("candidates"), list):
        named += [c.get("model") for c in cast("list[Any]", recipe["candidates"]) if isinstance(c, dict)]
    return [found for name in named if isinstance(name, str) and (found := _id(name)) is not None]


def located(kind: str, recipe: dict[str, Any], models: Path, known: Sequence[Exported] = ()) -> dict[str, Any]:
    """The recipe with every model as an absolute path: names are looked up under `models`, checkpoints by id in `known`.

    In an average, a job's id stands for all its checkpoints, oldest first. Raises INVALID_RECIPE, INVALID_REQUEST for a name that
    leads out of `models`, NOT_FOUND for an id that is no checkpoint's, CONFLICT for one without a model directory.
    """
    if kind in RECIPES:
        return _located_checkpoints(kind, recipe, models, known)
    if kind == "merge":
        merge = check_merge(recipe)
        return merge.with_references({name: _absolute(name, models) for name in merge.paths()}).settings()
    named = {key: _absolute(str(recipe[key]), models) for key in ("model", "base_model") if recipe.get(key)}
    return recipe | named


def verdict_of(
    evaluate: dict[str, Any], known: dict[str, Any]
) -> tuple[Literal["accepted", "rejected"], list[str]] | None:
    """Whether every accuracy reaches the bar, with the facts; None without a bar, or while one is still to come."""
    bar, wanted = evaluate.get("min_accuracy"), [str(one["evaluation_id"]) for one in evaluate["evaluations"]]
    if bar is None or any(one not in known for one in wanted):
        return None
    reasons: list[str] = []
    passed = True
    for one in wanted:
        accuracy, dataset = known[one]["accuracy"], known[one]["dataset"]
        good = accuracy is not None and accuracy >= bar
        passed = passed and good
        said = "no accuracy" if accuracy is None else f"accuracy {accuracy:.4f}"
        reasons.append(f"{said} on {dataset} {'reaches' if good else 'does not reach'} {bar:g}")
    return ("accepted" if passed else "rejected"), reasons


def _located_checkpoints(kind: str, given: dict[str, Any], models: Path, known: Sequence[Exported]) -> dict[str, Any]:
    checked = check_checkpoint_recipe(kind, given)
    recipe = checked.settings()

    def place(name: str) -> str:
        found = _id(name)
        return _absolute(name, models) if found is None else _checkpoint(found, known, shards=kind == "export")

    if kind == "average":
        names = [path for name in recipe["models"] for path in _of_job(name, known) or [place(name)]]
        recipe |= {"models": names}
        recipe |= {"held_out": str(_text_file(recipe["held_out"]))} if "held_out" in recipe else {}
        AverageRecipe.model_validate(recipe).check_members()
    elif kind == "select":
        # Not settings(): a score that is missing has to stay a missing one.
        recipe["candidates"] = [c | {"model": place(c["model"])} for c in recipe["candidates"]]
    else:
        recipe |= {key: place(recipe[key]) for key in ("model", "base_model") if key in recipe}
    return recipe


def _id(name: str) -> UUID | None:
    try:
        return UUID(name) if len(name) == 36 else None
    except ValueError:
        return None


def _of_job(name: str, known: Sequence[Exported]) -> list[str]:
    """The model directories of a job's checkpoints, if that is what the name is."""
    job_id = _id(name)
    return [c.path for c in sorted(known, key=lambda c: c.step) if c.job_id == job_id and c.path is not None]


def _checkpoint(checkpoint_id: UUID, known: Sequence[Exported], *, shards: bool) -> str:
    found = next((c for c in known if c.checkpoint_id == checkpoint_id), None)
    if found is None:
        hint = "`ltp checkpoints JOB` lists them; a job's id stands for all its checkpoints in `ltp average`."
        raise LtpError(ErrorCode.NOT_FOUND, f"{checkpoint_id} is no checkpoint with a model.", hint)
    if shards:
        return str(weights_of(Path(found.source)))
    if found.path is None:
        message = f"Checkpoint {checkpoint_id} (step {found.step}) has no model directory yet."
        raise LtpError(ErrorCode.CONFLICT, message, "Wait for its export; `ltp checkpoints JOB` shows it.")
    return found.path


def _text_file(name: str) -> Path:
    path = Path(name)
    if not path.is_absolute():
        raise invalid(
            "average", f"held_out {name} is no absolute path", "Give an absolute path on the platform's machine."
        )
    return path


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
