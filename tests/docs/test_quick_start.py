"""The quick start as a reader follows it: every block that a plain machine can run, in its order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.docs.test_docs import BLOCK, NEEDS, ROOT

# About a minute on a quiet machine: it trains, evaluates and compares.
pytestmark = [pytest.mark.e2e, pytest.mark.training, pytest.mark.slow]


def blocks(page: Path) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(page.read_text()) if not NEEDS.search(found["above"])]


@pytest.mark.parametrize("name", ["quick-start.md", "quick-start.zh.md"])
def test_both_languages_say_the_same_commands(name: str) -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+#.*", "", text)

    pages = [ROOT / "docs" / each for each in ("quick-start.md", name)]
    first, second = ([plain(block) for block in blocks(page)] for page in pages)
    assert first == second


@pytest.mark.timeout(1000)
def test_the_quick_start_leads_to_a_verdict(tmp_path: Path) -> None:
    # A port of its own, since the page's reader has the machine to himself and a test has not.
    script = "\n".join(["set -e", *blocks(ROOT / "docs" / "quick-start.md")])
    script = script.replace("ltp up -d ", f"ltp up -d --port {free_port()} ")
    environment = {**os.environ, "LTP_DATA_DIR": str(tmp_path / "data")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    shell = ["bash", "-c", script]
    try:
        done = subprocess.run(shell, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=900)
    finally:
        down = ["bash", "-c", "ltp down --stop-runs"]
        subprocess.run(down, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "unchanged" in done.stdout
