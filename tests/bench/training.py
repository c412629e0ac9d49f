"""What the platform costs a training: the same verl command under it and bare, in turns: `make bench SUITE=training`.

Both arms run on the same machine with the platform up, so what is compared is the watching of a run: launcher, samples,
metrics through the bus into the database. What the idle platform takes of a processor is a line of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.bench.result import Result, at_most, higher_is_better
from tests.e2e.platform import Platform, eventually
from tests.tiny_model import write_tiny_model

ROUNDS, STEPS, WARM = 3, 40, 8
RECIPE = """\
name: overhead
algorithm: sft
model: {{path: {model}}}
dataset: {{name: letters}}
training: {{steps: {steps}, batch_size: 32, learning_rate: 1.0e-3, max_length: 512}}
resources: {{device_kind: cpu, micro_batch_size: 8}}
"""


def run() -> list[Result]:
    """Two bars, in three turns each; about eight minutes on two processors."""
    with tempfile.TemporaryDirectory(prefix="ltp-bench-") as name:
        folder = Path(name)
        platform = Platform(folder / "data")
        platform.ltp("up", "--detach", seconds=300)
        try:
            return _measure(platform, folder)
        finally:
            platform.ltp("down", "--stop-runs", check=False)


def _measure(platform: Platform, folder: Path) -> list[Result]:
    (folder / "model").mkdir()
    write_tiny_model(folder / "model")
    _write_rows(folder / "letters.jsonl")
    platform.ltp("dataset", "add", str(folder / "letters.jsonl"))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=folder / "model", steps=STEPS))
    # The first one of each kind fills caches that the others find.
    ours, starts, bare = [], [], []
    print(f"load average {os.getloadavg()[0]:.1f}")
    idle = _idle_share(platform)
    for turn in range(ROUNDS + 1):
        run_dir, start = _under_the_platform(platform, recipe)
        speed = _tokens_per_second(run_dir / "metrics.jsonl")
        alone = _bare(run_dir, folder / f"bare-{turn}")
        print(f"turn {turn}: {speed:,.0f} tokens/s under it, {alone:,.0f} bare, started after {start:.2f} s")
        if turn:
            ours.append(speed)
            starts.append(start)
            bare.append(alone)
    print(f"load average {os.getloadavg()[0]:.1f}")
    return [
        higher_is_better("tokens per second", ours, bare, "the same command, bare", unit="tokens/s", bar=0.99),
        at_most("submit to process start", starts, 1.0, unit="s"),
        at_most("the idle platform's share of a processor", [idle], 0.25, unit="processors"),
    ]


def _under_the_platform(platform: Platform, recipe: Path) -> tuple[Path, float]:
    """The run's directory, and the seconds from the submission to the process's start."""
    submitted = json.loads(platform.ltp("job", "submit", str(recipe), "--json").stdout)
    job = submitted["job_id"]
    eventually(lambda: platform.json("job", "get", job)["state"] == "succeeded", seconds=600)
    found = platform.json("job", "get", job)
    run_dir = platform.data / "runs" / found["run_id"] / "attempt-1"
    status = json.loads((run_dir / "status.json").read_text())
    started, asked = (datetime.fromisoformat(at) for at in (status["started_at"], found["submitted_at"]))
    return run_dir, (started - asked).total_seconds()


def _bare(run_dir: Path, folder: Path) -> float:
    """Run what the launcher was told to run, with nobody watching, its output in a file."""
    text = (run_dir / "launch.json").read_text().replace(str(run_dir), str(folder))
    spec: dict[str, Any] = json.loads(text)
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with (folder / "log.txt").open("wb") as log:
        subprocess.run(
            spec["argv"], env={**kept, **spec["env"]}, cwd=folder, stdout=log, stderr=log, check=True, timeout=900
        )
    return _tokens_per_second(folder / "metrics.jsonl")


def _tokens_per_second(metrics: Path) -> float:
    """All tokens over all time after the first steps."""
    lines = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line][WARM:]
    return sum(s["train/global_tokens"] for s in steps) / sum(s["perf/time_per_step"] for s in steps)


def _idle_share(platform: Platform, seconds: float = 10.0) -> float:
    """Processors that the platform's processes take while nothing runs."""
    supervisor = [
        p for p in psutil.process_iter(["cmdline"]) if str(platform.data) in " ".join(p.info["cmdline"] or ())
    ]
    family = {p.pid: p for top in supervisor for p in (top, *top.children(recursive=True))}
    before = _cpu_seconds(list(family.values()))
    time.sleep(seconds)
    return (_cpu_seconds(list(family.values())) - before) / seconds


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _write_rows(path: Path) -> None:
    with path.open("w") as file:
        for index in range(320):
            letters = "".join(chr(97 + (index * 7 + place * place) % 26) for place in range(400))
            file.write(json.dumps({"prompt": f"letters {index}", "response": letters}) + "\n")
