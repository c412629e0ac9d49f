"""Training tokens a second with the process's trace exported and without, alternated; the same recipe, model and seed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.result import Result, higher_is_better
from tests.service.runner.test_training import _row, _spec
from tests.tiny_model import write_tiny_model

ROUNDS, STEPS, ROWS = 3, 60, 64
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def measure_training(place: Path, endpoint: str) -> list[Result]:
    """Steps a second of the same training, in turn with and without."""
    material = place / "material"
    material.mkdir()
    write_tiny_model(material / "model")
    pq.write_table(pa.Table.from_pylist([_row(i) for i in range(ROWS)]), material / "train.parquet")
    told = {"TRACEPARENT": _TRACEPARENT, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    rates: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * ROUNDS):
        traced = turn % 2 == 1
        rates[traced].append(_pace(material, place / f"run-{turn}", told if traced else {}))
    print(f"training steps/s: off {rates[False]}, traced {rates[True]}, median ratio "
          f"{statistics.median(rates[True]) / statistics.median(rates[False]):.3f}")  # fmt: skip
    return [higher_is_better("training tokens/s, traced", rates[True], rates[False], "off", unit="steps/s", bar=0.97)]


def _pace(material: Path, run_dir: Path, told: dict[str, str]) -> float:
    """Steps a second between the fifth step and the last, as they are logged."""
    run_dir.mkdir()
    spec = _spec(material, run_dir, steps=STEPS)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with (run_dir / "log").open("wb") as log:
        child = subprocess.Popen(spec.argv, cwd=spec.cwd, env={**kept, **spec.env, **told}, stdout=log, stderr=log)
    times: dict[int, float] = {}
    metrics = Path(spec.metrics_path)
    while child.poll() is None:
        count = metrics.read_bytes().count(b'"train/loss"') if metrics.exists() else 0
        times.setdefault(count, time.monotonic())
        time.sleep(0.002)
    if child.returncode != 0:
        print((run_dir / "log").read_text()[-2000:], file=sys.stderr)
        raise RuntimeError(f"training ended with {child.returncode}")
    seen = sorted(count for count in times if count >= 5)
    return (seen[-1] - seen[0]) / (times[seen[-1]] - times[seen[0]])
