#!/usr/bin/env python3
"""Stands in for the Python of the training environment, so that a storm can run hundreds of attempts on two cores.

Called as the runner calls verl's trainers: it writes the metrics, the checkpoints and the tracker that they would, heeds the
stop file, and resumes. As surgery's export it names a model. Each deed is also written down by itself, for the checker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.25


def main(arguments: list[str]) -> None:
    if "services.surgery.export" in arguments:
        print(json.dumps({"path": arguments[-1], "size_bytes": 1, "weights_sha256": "0" * 64}))
        return
    train(dict(a.lstrip("+").split("=", 1) for a in arguments if "=" in a and not a.startswith("--")))


def train(overrides: dict[str, str]) -> None:
    metrics = Path(os.environ["VERL_FILE_LOGGER_PATH"])
    folder = Path(unquoted(overrides["trainer.default_local_dir"]))
    steps, every = int(overrides["trainer.total_training_steps"]), int(overrides["trainer.save_freq"])
    resumed = unquoted(overrides.get("trainer.resume_from_path", "null"))
    first = 1 + (0 if resumed == "null" else int(resumed.rpartition("_")[2]))
    for step in range(first, steps + 1):
        time.sleep(STEP_SECONDS)
        witness(metrics, step)
        stop = Path(os.environ["LTP_STOP_FILE"]).exists()
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "data": {"train/loss": 1 / step}}) + "\n")
        if step == steps or stop or (every > 0 and step % every == 0):
            save(folder, step)
        if stop:
            return


def witness(metrics: Path, step: int) -> None:
    """One line that nobody but the checker reads: who trained which step of which run, on which device, when."""
    line = {
        "run": metrics.parent.parent.name,
        "attempt": int(metrics.parent.name.rpartition("-")[2]),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES", "cpu"),
        "pid": os.getpid(),
        "step": step,
        "at": time.clock_gettime(time.CLOCK_BOOTTIME),
    }
    with open(os.environ["HOME"] + "/witness.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def save(folder: Path, step: int) -> None:
    top = folder / f"global_step_{step}"
    (top / "huggingface").mkdir(parents=True, exist_ok=True)
    for part in ("model", "optim", "extra_state"):
        (top / f"{part}_world_size_1_rank_0.pt").write_bytes(b"x")
    (top / "data_0.pt").write_bytes(b"x")
    (top / "fsdp_config.json").write_text("{}")
    (top / "huggingface" / "config.json").write_text("{}")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def unquoted(value: str) -> str:
    return value.strip("'\"")


if __name__ == "__main__":
    main(sys.argv[1:])
