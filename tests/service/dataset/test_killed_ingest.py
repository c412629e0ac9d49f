"""`kill -9` at any moment of reading: the next try gives the very version, and nothing of the dead one is left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

SCRIPT = Path(__file__).parent / "ingest_to_kill.py"
ROWS = 4000


def start(source: Path, versions: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(source), str(versions)], stdout=subprocess.PIPE, text=True
    )


def killed_when(source: Path, versions: Path, reached: Callable[[], bool]) -> bool:
    """Kill the reader as soon as a condition holds; False when it was over before."""
    process = start(source, versions)
    deadline = time.monotonic() + 60
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    was_running = process.poll() is None
    process.kill()
    process.communicate()
    return was_running


def test_killed_while_spooling_while_writing_and_at_the_end(tmp_path: Path) -> None:
    source, versions = tmp_path / "a.jsonl", tmp_path / "versions"
    rows = [{"id": f"r{n}", "prompt": f"question {n}?", "response": "x" * (n % 90) + str(n)} for n in range(ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    moments: list[Callable[[], bool]] = [
        lambda: len(list(versions.glob(".staging-k.spool-*/*.arrow"))) >= 1,
        lambda: len(list(versions.glob(".staging-k.spool-*/*.arrow"))) >= 60,
        lambda: any(versions.glob(".staging-k-*/train.parquet")),
        lambda: any(versions.glob(".staging-k-*/manifest.json")),
    ]
    killed = [killed_when(source, versions, moment) for moment in moments]
    assert sum(killed) >= 3
    process = start(source, versions)
    version = process.communicate(timeout=60)[0].strip()
    assert process.returncode == 0
    assert [path.name for path in versions.iterdir()] == [version]
    ids = [
        row
        for split in ("train", "test")
        for row in pq.read_table(versions / version / f"{split}.parquet", columns=["id"]).column("id").to_pylist()
    ]
    assert sorted(ids) == sorted(f"r{n}" for n in range(ROWS))
