"""A platform in an empty directory, always taken down."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.service.up.driver import Platform, eventually, write_fake_services


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with stand-ins for the services."""
    place = tmp_path_factory.mktemp("fakes")
    write_fake_services(place)
    return place


@pytest.fixture
def platform(tmp_path: Path, fakes: Path) -> Generator[Platform]:
    """A platform that does not run yet."""
    here = Platform(tmp_path / "data", fakes)
    yield here
    here.ltp("down")
    eventually(lambda: not here.survivors())
