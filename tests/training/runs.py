"""Trains as the runner would: the platform's own launch specification and its launcher, on a tiny model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.verl_recipe.verl_0_9 import launch_spec, parse_metrics_line
from services.runner import launch
from services.runner.backends.local import LocalBackend
from tests.service.runner.conftest import wait_for

PLAN = {
    "device_kind": "cpu", "devices": 1, "micro_batch_size": 4, "gradient_checkpointing": False, "parameters": 1,
    "memory_bytes": 1, "memory_upper_bytes": 1, "device_memory_bytes": 1, "memory_components": {},
}  # fmt: skip


@dataclass
class Run:
    """One attempt: its recipe, its files, its directory."""

    directory: Path
    recipe: dict[str, Any]
    model: Path
    rows: Path
    plan: dict[str, Any]

    def start(self, resume_from: Path | None = None) -> Run:
        """Launch it."""
        plan = Plan.model_validate(PLAN | self.plan)
        recipe = Recipe.model_validate({"model": {"path": str(self.model)}, "dataset": {"name": "toy"}} | self.recipe)
        spec = launch_spec(
            recipe, plan, python=sys.executable, run_dir=self.directory, model_path=self.model, train_file=self.rows,
            validation_file=None, train_rows=pq.read_metadata(self.rows).num_rows, device_indexes=[0],
            resume_from=resume_from,
        )  # fmt: skip
        asyncio.run(LocalBackend().launch(self.directory, spec))
        return self

    def stop(self) -> None:
        """Ask it to leave after the step."""
        asyncio.run(LocalBackend().request_stop(self.directory))

    def end(self, seconds: float = 900) -> Run:
        """Wait for its end, which must be a good one."""
        status = wait_for(self._ended, seconds=seconds)
        assert status["exit_code"] == 0, self.log()[-6000:]
        return self

    def over(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._ended() is not None

    def processes(self) -> set[int]:
        """What of it lives, by pid."""
        return launch.processes(self.directory.resolve(), -1, None)

    @staticmethod
    def lives(pid: int) -> bool:
        """Whether a process is there and no zombie."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def _ended(self) -> dict[str, Any] | None:
        status = json.loads((self.directory / "status.json").read_text())
        return status if status["state"] == "exited" else None

    def log(self) -> str:
        """What the training process said."""
        return (self.directory / "log.txt").read_text(errors="replace")

    def lines(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Steps and metrics, as the platform reads them."""
        file = self.directory / "metrics.jsonl"
        for raw in file.read_bytes().splitlines() if file.exists() else []:
            parsed = parse_metrics_line(raw)
            if parsed is not None:
                yield parsed

    def curve(self, name: str) -> dict[int, float]:
        """One metric by step."""
        return {step: values[name] for step, values in self.lines() if name in values}

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.directory / "checkpoints" / f"global_step_{step}"


Maker = Callable[..., Run]


def write_pairs(path: Path, count: int = 32) -> Path:
    """Preference pairs with one rule: the answer is `a`, never `b`."""
    rows = [
        {
            "messages": [*_asked(i), {"role": "assistant", "content": "aaaa"}],
            "chosen": [{"role": "assistant", "content": "aaaa"}],
            "rejected": [{"role": "assistant", "content": "bbbb"}],
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_prompts(path: Path, count: int = 32) -> Path:
    """Prompts as a frozen version has them; the reward is the test's business."""
    rows = [
        {
            "messages": [*_asked(i), {"role": "assistant", "content": "aaaa"}],
            "prompt": _asked(i),
            "data_source": "toy",
            "reward_model": {"style": "rule", "ground_truth": "aaaa"},
            "extra_info": {"id": str(i), "index": i},
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _asked(index: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"say {index}"}]
