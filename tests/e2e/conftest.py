"""One platform for the whole session, started as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
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
    """A platform that is ready, with a dataset `sums`, whose spans a real receiver of OTLP (oteltap) writes down."""
    folder = tmp_path_factory.mktemp("platform")
    port, spans = free_port(), folder / "spans.ndjson"
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    here = Platform(folder / "data", spans, told)
    with spans.open("wb") as file:
        receiver = subprocess.Popen([sys.executable, "-u", "-m", "oteltap", "--port", str(port)], stdout=file)
    try:
        here.ltp("up", "--detach", seconds=180)
        write_rows(folder / "sums.jsonl")
        here.ltp("dataset", "add", str(folder / "sums.jsonl"), "--holdout", "0.2")
        yield here
    finally:
        here.ltp("down", "--stop-runs", check=False)
        receiver.terminate()
        receiver.wait(10)
