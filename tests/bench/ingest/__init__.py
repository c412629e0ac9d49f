"""Part `ingest`: a million rows read, checked, frozen and profiled, against Hugging Face `datasets` computing the same.

Both sides read the same file and must agree on every statistic. Ours does more: it checks each row, names it by its
content, leaves copies out, sorts and writes Parquet. The peer has an environment of its own (`~/.cache/ltp-bench`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tests.bench.ingest.rows import write_rows
from tests.bench.result import Result, at_most, lower_is_better

ROWS = int(os.environ.get("LTP_BENCH_DATASET_ROWS", "1000000"))
ROUNDS = 1
_HERE = Path(__file__).parent
_CACHE = Path("~/.cache/ltp-bench/dataset").expanduser()
_PEER = "datasets==5.2.0"
# Quantiles of ours are from a sketch that is right within 1 %.
_CLOSE = 0.011


def run() -> list[Result]:
    """Both sides, by turns."""
    python = _peer_python()
    source = _CACHE / f"rows-{ROWS}.jsonl"
    write_rows(source, ROWS)
    ours: list[dict[str, Any]] = []
    peer: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            ours.append(_answer([sys.executable, "-m", "tests.bench.ingest.ours", str(source), folder]))
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            peer.append(_answer([str(python), str(_HERE / "peer.py"), str(source), folder]))
            assert_same(ours[-1], peer[-1])
    source.unlink()
    return [
        lower_is_better(
            f"ingest and profile {ROWS} rows", [o["seconds"] for o in ours], [p["seconds"] for p in peer], _PEER,
            unit="s", bar=3.0,
        ),
        at_most("peak memory of it", [o["peak_bytes"] / 2**30 for o in ours], 1.0, unit="GiB"),
    ]  # fmt: skip


def assert_same(ours: dict[str, Any], peer: dict[str, Any]) -> None:
    """Both computed the same statistics of the same rows."""
    profile = ours["profile"]
    assert ours["rows"] == peer["rows"], (ours["rows"], peer["rows"])
    for name, theirs in peer["numbers"].items():
        mine = profile["fields"]["score"]["numbers"] if name == "score" else profile["lengths"][name]
        assert mine["count"] == theirs["count"] == sum(mine["histogram"]["counts"]), name
        for key in ("min", "max", "mean", "std"):
            assert abs(mine[key] - theirs[key]) <= 1e-6 * max(1.0, abs(theirs[key])), (name, key)
        for key in ("p50", "p95"):
            assert abs(mine[key] - theirs[key]) <= _CLOSE * max(1.0, abs(theirs[key])), (name, key)
    for name, counts in peer["values"].items():
        found = {str(v["value"]): v["count"] for v in profile["fields"][name]["top"]}
        found |= {"None": profile["fields"][name]["nulls"]} if profile["fields"][name]["nulls"] else {}
        assert found == counts, name
    tables = {" x ".join(table["fields"]): sum(c["count"] for c in table["cells"]) for table in profile["crosstabs"]}
    assert tables == peer["pairs"], tables


def _answer(argv: list[str]) -> dict[str, Any]:
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _peer_python() -> Path:
    """The peer's interpreter, installed at the first run."""
    python = _CACHE / "bin" / "python"
    if not python.exists():
        shutil.rmtree(_CACHE, ignore_errors=True)
        venv.create(_CACHE, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", _PEER], check=True)
    return python
