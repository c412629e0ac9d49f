"""A recipe from the command line: a file or standard input, checked here so that errors name line and column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltp.cli.yaml_files import yaml_text

if TYPE_CHECKING:
    from ltp.contracts.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML; `-` reads standard input.")]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; a model path is taken from this directory."""
    from ltp.recipe_text import parse_recipe

    recipe = parse_recipe(*yaml_text(path))
    model = Path(recipe.model.path).expanduser()
    if model.exists():
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(model.resolve())})})
    return recipe
