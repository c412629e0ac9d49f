"""A recipe from the command line: a file or standard input, checked here so that errors name line and column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltp.core.errors import ErrorCode, LtpError

if TYPE_CHECKING:
    from ltp.contracts.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML; `-` reads standard input.")]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; a model path is taken from this directory."""
    from ltp.recipe_text import parse_recipe

    source = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise LtpError(ErrorCode.NOT_FOUND, f"{path} cannot be read ({error.strerror}).", "Give a file.") from error
    except UnicodeDecodeError as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    recipe = parse_recipe(text, source)
    model = Path(recipe.model.path).expanduser()
    if model.exists():
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(model.resolve())})})
    return recipe
