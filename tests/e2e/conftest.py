"""One platform for the whole session, started as a user starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Platform, write_rows
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that is ready, with a dataset `sums`."""
    folder = tmp_path_factory.mktemp("platform")
    here = Platform(folder / "data")
    here.ltp("up", "--detach", seconds=180)
    try:
        write_rows(folder / "sums.jsonl")
        here.ltp("dataset", "add", str(folder / "sums.jsonl"), "--holdout", "0.2")
        yield here
    finally:
        here.ltp("down", "--stop-runs", check=False)
