"""Material for trainings of a tiny model: the model, rows, and a maker of runs that leaves no process behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.runner.backends.local import LocalBackend
from tests.tiny_model import write_tiny_model
from tests.training.runs import Maker, Run, write_pairs, write_prompts


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model of 0.3 million random weights, pairs and prompts."""
    directory = tmp_path_factory.mktemp("material")
    write_tiny_model(directory / "model")
    _make_outspoken(directory / "model")
    write_pairs(directory / "pairs.parquet")
    write_prompts(directory / "prompts.parquet")
    return directory


def _make_outspoken(model: Path, by: float = 5.0) -> None:
    """Enlarge the embeddings, which are the head too: as they are drawn, no change of the other weights, and so no
    adapter, could make any byte much likelier than another."""
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"] *= by
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def run(material: Path, tmp_path: Path) -> Iterator[Maker]:
    """Make a run of a recipe, given as its differences from nothing."""
    made: list[Run] = []

    def make(algorithm: str, *, training: dict[str, Any], plan: dict[str, Any] | None = None, **sections: Any) -> Run:
        recipe = {"name": algorithm, "algorithm": algorithm, **sections}
        recipe["training"] = {"steps": 12, "batch_size": 8, "learning_rate": 1e-3, "max_length": 48, **training}
        rows = material / ("pairs.parquet" if algorithm == "dpo" else "prompts.parquet")
        made.append(Run(tmp_path / f"{algorithm}-{len(made)}", recipe, material / "model", rows, plan or {}))
        return made[-1]

    yield make
    for one in made:
        asyncio.run(LocalBackend().kill(one.directory))
