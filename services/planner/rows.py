"""Whether a dataset can serve a recipe, asked before anything is planned. Pure."""

from __future__ import annotations

from ltp.contracts.dataset import DatasetVersion, Split
from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError


def check_rows(recipe: Recipe, dataset: DatasetVersion) -> None:
    """Raise where training or evaluation would find too little.

    DATASET_TOO_SMALL when one batch cannot be filled (verl then divides by zero), EVALUATION_EMPTY and
    DATASET_ROW_WITHOUT_ANSWER when there is nothing to score by.
    """
    train = _split(dataset, recipe.dataset.train_split)
    if train.rows < recipe.training.batch_size:
        raise LtpError(
            ErrorCode.DATASET_TOO_SMALL,
            f"Split {recipe.dataset.train_split!r} of {dataset.name} has {train.rows} rows, "
            f"fewer than training.batch_size {recipe.training.batch_size}.",
            f"Set training.batch_size to {max(train.rows, 1)} or less, or add rows.",
        )
    if _needs_answers(recipe) and train.answered < train.rows:
        raise LtpError(
            ErrorCode.DATASET_ROW_WITHOUT_ANSWER,
            f"{train.rows - train.answered} of {train.rows} rows have no answer to reward by.",
            "Give each row an `answer`.",
        )
    if recipe.evaluation is None:
        return
    held_out = _split(dataset, recipe.evaluation.split)
    if held_out.answered < 2:
        raise LtpError(
            ErrorCode.EVALUATION_EMPTY,
            f"Split {recipe.evaluation.split!r} of {dataset.name} has {held_out.answered} rows with an answer; "
            "a comparison needs at least 2.",
            "Add the dataset with a larger --holdout, or leave `evaluation:` out.",
        )


def _needs_answers(recipe: Recipe) -> bool:
    """Whether the reward compares with the row's answer; a function, a model or a service may do without."""
    section = recipe.reinforcement
    return section is not None and (section.reward is None or section.reward.kind == "verifier")


def _split(dataset: DatasetVersion, name: str) -> Split:
    found = dataset.splits.get(name)
    if found is None:
        raise LtpError(
            ErrorCode.INVALID_RECIPE,
            f"{dataset.name} has no split {name!r}; it has {', '.join(sorted(dataset.splits)) or 'none'}.",
            "Name one of these, or add the dataset with --holdout.",
        )
    return found
