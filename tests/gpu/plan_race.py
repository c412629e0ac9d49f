"""Races a plan's overrides against hand-made configurations on one GPU host: seconds a step and peak memory of each.

    python3 plan_race.py prepare WORK                  # random-weight models and synthetic rows
    python3 plan_race.py run WORK RACE.json OUT.json   # every configuration, one after the other, in one call

Needs verl (and vLLM for GRPO) beside torch, and `libs` on PYTHONPATH; nothing else of the platform. RACE.json is what
`plan_race_configurations.py` wrote on a machine that has the planner. Rows are as long as the recipe allows, so
that every configuration computes the same tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Steps that warm up kernels, allocator and caches; and after how many a run ends (without its checkpoint).
WARM_UP = {"sft": 2, "grpo": 1}
STEPS = {"sft": 5, "grpo": 5}
# More than this in use on the device: the last configuration has not left yet.
_LEFT_BYTES = 2 << 30


def prepare(work: Path, names: list[str]) -> None:
    """Random-weight checkpoints of `work`/NAME/config.json, each with the tokenizer of `work`/tokenizer, and the rows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for name in names:
        config = AutoConfig.from_pretrained(work / name)
        torch.set_default_device("cuda")
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        torch.set_default_device("cpu")
        model.save_pretrained(work / name)
        del model
        torch.cuda.empty_cache()
        for file in (work / "tokenizer").iterdir():
            shutil.copy(file, work / name / file.name)
    _rows(work)


def _rows(work: Path) -> None:
    import pandas as pd

    words = ["seven", "plus", "eight", "makes", "fifteen", "and", "then", "some", "more", "numbers", "follow"]
    long = [" ".join(words[(i * 7 + n * (1 + i % 5)) % len(words)] for n in range(3000)) for i in range(64)]
    sft = [
        [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": long[i % 64]}] for i in range(1024)
    ]
    pd.DataFrame({"messages": sft}).to_parquet(work / "sft.parquet")
    rl = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{i} " + "1 " * 60}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(i)},
            "extra_info": {"index": i},
        }
        for i in range(1024)
    ]
    pd.DataFrame(rl).to_parquet(work / "grpo.parquet")


def run(work: Path, race: Path, out: Path) -> None:
    """Every configuration of the race in turn; `out` is rewritten after each."""
    found: list[dict[str, Any]] = []
    for entry in json.loads(race.read_text()):
        found.append(_one(work, entry))
        out.write_text(json.dumps(found, indent=1))
        shown = {
            key: found[-1].get(key)
            for key in ("recipe", "name", "seconds", "steps", "allocated_gib", "device_gib", "wall")
        }
        print(json.dumps(shown), flush=True)
        if found[-1]["seconds"] is None:
            print("   ", found[-1]["error"][-1500:], flush=True)


def _one(work: Path, entry: dict[str, Any]) -> dict[str, Any]:
    directory = work / "runs" / f"{entry['recipe']}-{entry['name']}"
    directory.mkdir(parents=True)
    arguments = [
        text.replace("MODEL", str(work / entry["model"]))
        .replace("TRAIN.parquet", str(work / f"{entry['algorithm']}.parquet"))
        .replace("RUN_DIR", str(directory))
        .replace("ltp_verl/reward_manager.py", str(_libs() / "ltp_verl" / "reward_manager.py"))
        for text in entry["overrides"]
    ]
    environment = {
        **os.environ,
        **entry.get("env", {}),
        "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl"),
        "RACE_STEPS": str(directory / "steps.json"),
    }
    command = [sys.executable, str(Path(__file__).resolve()), "sft"] if entry["algorithm"] == "sft" else [
        sys.executable, "-m", "ltp_verl.rl"]  # fmt: skip
    started = time.monotonic()
    read = _sft_steps if entry["algorithm"] == "sft" else _rl_steps
    with open(directory / "log.txt", "wb") as log, _DeviceMemory() as memory:
        process = subprocess.Popen(
            [*command, *arguments], stdout=log, stderr=log, env=environment, cwd=directory, start_new_session=True
        )
        deadline = started + entry.get("limit", 300)
        while process.poll() is None and time.monotonic() < deadline:
            if entry["algorithm"] != "sft" and len(read(directory)["seconds"]) >= STEPS[entry["algorithm"]]:
                break
            time.sleep(0.2)
        code = process.poll()
        _end(process)
        memory.wait_until_free()
    steps = read(directory)
    timed = steps["seconds"][WARM_UP[entry["algorithm"]] :]
    result = {
        **{key: entry.get(key) for key in ("recipe", "name", "ours", "predicted")},
        "overrides": entry["overrides"], "code": code, "wall": round(time.monotonic() - started, 1),
        "seconds": statistics.mean(timed) if timed else None, "steps": [round(s, 4) for s in steps["seconds"]],
        "allocated_gib": steps["allocated"], "reserved_gib": steps["reserved"], "device_gib": memory.most / 2**30,
        "detail": steps.get("detail"),
    }  # fmt: skip
    if not timed:
        result["error"] = (directory / "log.txt").read_text(errors="replace")[-6000:]
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: Ray's daemons and vLLM's workers follow their parents."""
    for number, seconds in ((signal.SIGTERM, 4), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def _libs() -> Path:
    import importlib.util

    found = importlib.util.find_spec("ltp_verl")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent.parent


def _sft_steps(directory: Path) -> dict[str, Any]:
    path = directory / "steps.json"
    return json.loads(path.read_text()) if path.exists() else {"seconds": [], "allocated": None, "reserved": None}


def _rl_steps(directory: Path) -> dict[str, Any]:
    path = directory / "metrics.jsonl"
    lines = [json.loads(line)["data"] for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if "perf/time_per_step" in line]
    last = lines[-1] if lines else {}
    return {
        "seconds": [line["perf/time_per_step"] for line in lines],
        "allocated": last.get("actor/perf/max_memory_allocated_gb"),
        "reserved": last.get("actor/perf/max_memory_reserved_gb"),
        "detail": {
            key: value for key, value in last.items()
            if key.startswith(("timing_s/", "response_length/mean", "prompt_length/mean", "perf/"))
        },
    }  # fmt: skip


class _DeviceMemory:
    """The most memory in use on the first GPU, looked at ten times a second."""

    most = 0

    def __enter__(self) -> _DeviceMemory:
        import pynvml  # pyright: ignore[reportMissingImports] # only on a GPU host

        pynvml.nvmlInit()
        self._handle, self._info = pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.nvmlDeviceGetMemoryInfo
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def wait_until_free(self, seconds: float = 20) -> None:
        """Until nobody uses the device."""
        deadline = time.monotonic() + seconds
        while self._info(self._handle).used > _LEFT_BYTES and time.monotonic() < deadline:
            time.sleep(0.1)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, self._info(self._handle).used)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def sft() -> None:
    """The platform's own SFT entry, with a clock around each optimizer step."""
    import torch

    from ltp_verl import sft as entry

    seconds: list[float] = []
    build = entry.StoppableSFTTrainer._build_engine

    def build_and_time(trainer: Any) -> None:
        build(trainer)
        inner = trainer.training_client.train_batch

        def timed(data: Any) -> Any:
            torch.cuda.synchronize()
            started = time.perf_counter()
            output = inner(data=data)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            peak = {
                "allocated": torch.cuda.max_memory_allocated() / 2**30,
                "reserved": torch.cuda.max_memory_reserved() / 2**30,
            }
            Path(os.environ["RACE_STEPS"]).write_text(json.dumps({"seconds": seconds, **peak}))
            if len(seconds) == STEPS["sft"]:
                os._exit(0)
            return output

        trainer.training_client.train_batch = timed

    vars(entry)["StoppableSFTTrainer"]._build_engine = build_and_time
    sys.argv = [sys.argv[0], *sys.argv[2:]]
    entry.main()


if __name__ == "__main__":
    verb = sys.argv[1]
    if verb == "prepare":
        prepare(Path(sys.argv[2]), sys.argv[3:])
    elif verb == "run":
        run(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        sft()
