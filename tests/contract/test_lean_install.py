"""The gateway, the planner and the scheduler install and start without torch: proven in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from tests.conftest import free_port, until

ROOT = Path(__file__).resolve().parents[2]
LEAN = ("gateway", "planner", "scheduler")


@pytest.fixture(scope="module")
def lean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the extras of the three and nothing else."""
    venv = tmp_path_factory.mktemp("lean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    what = f"{ROOT}[{','.join(LEAN)}]"
    # Not editable: the wheel itself must hold all that these services need.
    command = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), what]
    subprocess.run(command, check=True, timeout=600)
    return python


@pytest.fixture
def environment(nats_url: str, database_url: str, tmp_path: Path, js: JetStreamContext) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text("secret")
    return {
        "PATH": os.environ["PATH"],
        "LTP_NATS_URL": nats_url,
        "LTP_DATABASE_URL": database_url,
        "LTP_DATA_DIR": str(tmp_path),
        "LTP_GATEWAY_TOKEN_FILE": str(token),
    }


def answer(url: str) -> dict[str, object]:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            body: dict[str, object] = json.load(response)
            return body
    except (urllib.error.URLError, OSError):
        return {}


@pytest.mark.parametrize("service", LEAN)
async def test_it_starts_without_torch(service: str, lean_python: Path, environment: dict[str, str]) -> None:
    port = free_port()
    environment |= {"LTP_HEALTH_PORT": str(port), "LTP_GATEWAY_PORT": str(port)}
    process = subprocess.Popen([str(lean_python), "-m", f"services.{service}"], env=environment, cwd="/")
    try:
        await until(lambda: answer(f"http://127.0.0.1:{port}/readyz").get("ready") is True, seconds=60)
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_no_heavy_package_came_along(lean_python: Path) -> None:
    installed = subprocess.run([str(lean_python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    names = {line.partition("==")[0].lower() for line in installed.stdout.splitlines()}
    assert not names & {"torch", "transformers", "verl", "ray", "numpy", "pandas", "pyarrow"}
