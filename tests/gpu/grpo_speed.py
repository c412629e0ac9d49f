"""Seconds of a GRPO step on one GPU: verl as somebody sets it up at first, and what the platform emits, in one call.

    python3 grpo_speed.py WORK OUT.json [naive] [platform]

WORK holds `input/model` (`ltp_verl.demo_input`). Both get the same rows, model, batch and algorithm: 1,024 responses of at most
32 tokens a step. The first is the command of shared/gpu/README.md, the second the plan's, through recipe, table and launcher.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, NAIVE_STEPS, OUR_STEPS, PROFILED_STEP = 2048, 3, 12, 9
RECIPE: dict[str, Any] = {
    "name": "grpo-speed", "algorithm": "grpo", "dataset": {"name": "sums"},
    "training": {"steps": OUR_STEPS, "batch_size": 128, "learning_rate": 5e-6, "max_length": 96},
    "reinforcement": {
        "samples_per_prompt": 8, "max_response_length": 32, "mini_batch_size": 64, "kl_loss_coefficient": 0.001,
        "scorer": "numeric",
    },
}  # fmt: skip
_REWARD = """
import re
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kw):
    found = re.findall(r"\\d+", solution_str)
    return 1.0 if found and found[-1] == ground_truth else 0.0
"""


def write_rows(work: Path) -> None:
    """Sums as both read them, and the reward of the first."""
    import pandas as pd

    draw = random.Random(0)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(ROWS)]
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"What is {a} + {b}? Answer with the number only."}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(a + b)},
            "extra_info": {"index": index, "id": str(index)},
        }
        for index, (a, b) in enumerate(pairs)
    ]
    pd.DataFrame(rows).to_parquet(work / "rl.parquet")
    (work / "reward.py").write_text(_REWARD)


def naive(work: Path) -> dict[str, Any]:
    """verl's own entry point with the settings of a first try."""
    directory = work / "naive"
    directory.mkdir()
    model, actor, rollout = work / "input" / "model", "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    overrides = [
        "algorithm.adv_estimator=grpo", f"data.train_files={work}/rl.parquet", f"data.val_files={work}/rl.parquet",
        "data.train_batch_size=128", "data.max_prompt_length=64", "data.max_response_length=32",
        f"actor_rollout_ref.model.path={model}", "actor_rollout_ref.model.use_remove_padding=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa", f"{actor}.optim.lr=5e-6",
        f"{actor}.ppo_mini_batch_size=64", f"{actor}.ppo_micro_batch_size_per_gpu=64", f"{actor}.use_kl_loss=True",
        f"{rollout}.name=vllm", f"{rollout}.n=8", f"{rollout}.gpu_memory_utilization=0.3",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=128",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=128", f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.enforce_eager=True", f"{rollout}.agent.num_workers=2", "reward.num_workers=2",
        "trainer.n_gpus_per_node=1", "trainer.nnodes=1", f"trainer.total_training_steps={NAIVE_STEPS}",
        "trainer.save_freq=-1", "trainer.test_freq=-1", "trainer.val_before_train=False",
        "trainer.logger=[console,file]", "trainer.project_name=p", "trainer.experiment_name=naive",
        f"reward.custom_reward_function.path={work}/reward.py", "+ray_kwargs.ray_init.include_dashboard=False",
    ]  # fmt: skip
    environment = os.environ | {
        "VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1", "RAY_memory_monitor_refresh_ms": "0",
        "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false",
        "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl"),
    }  # fmt: skip
    with open(directory / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "verl.trainer.main_ppo", *overrides],
            stdout=log, stderr=log, env=environment, cwd=directory, start_new_session=True,
        )  # fmt: skip
        _watch(directory, NAIVE_STEPS, lambda: process.poll() is not None, seconds=290)
        _end(process.pid)
    return _figures(directory) | {"overrides": overrides}


def platform(work: Path) -> dict[str, Any]:
    """The recipe as the runner would start it: planned for this host, emitted by the table, launched by the launcher."""
    from ltp.contracts.recipe import Recipe
    from ltp.core.model_config import read_architecture
    from ltp.planning.choice import choose
    from ltp.planning.pools import HostFacts
    from ltp.verl_recipe.verl_0_9 import launch_spec
    from services.runner.backends.local import LocalBackend
    from services.runner.host import describe

    directory, model = work / "platform", work / "input" / "model"
    recipe = Recipe.model_validate({**RECIPE, "model": {"path": str(model)}})
    seen = asyncio.run(describe("here"))
    host = HostFacts(seen.host_id, seen.devices, seen.memory_bytes, seen.cpus)
    plan = choose(recipe, read_architecture(json.loads((model / "config.json").read_text())), [host])
    spec = launch_spec(
        recipe, plan, python=sys.executable, run_dir=directory, model_path=model, train_file=work / "rl.parquet",
        validation_file=None, train_rows=ROWS, device_indexes=[0],
    )  # fmt: skip
    # Something to look into verl's processes with, such as a clock around its functions.
    if more := os.environ.get("MORE_MODULES"):
        modules = f"{spec.env['VERL_USE_EXTERNAL_MODULES']},{more}"
        spec = dataclasses.replace(spec, env={**spec.env, "VERL_USE_EXTERNAL_MODULES": modules})
    asyncio.run(LocalBackend().launch(directory, spec))
    over: Callable[[], bool] = lambda: json.loads((directory / "status.json").read_text())["state"] == "exited"  # noqa: E731
    _watch(directory, PROFILED_STEP, over, seconds=400)
    if len(_steps(directory)) >= PROFILED_STEP:
        _profile(directory)
    _watch(directory, OUR_STEPS - 1, over, seconds=100)
    asyncio.run(LocalBackend().kill(directory))
    predicted = {"seconds": plan.step_seconds, "bytes": plan.memory_bytes, "components": plan.memory_components}
    return _figures(directory) | {"overrides": list(spec.argv), "predicted": predicted}


def _watch(directory: Path, steps: int, over: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not over() and len(_steps(directory)) < steps:
        time.sleep(0.5)


def _profile(directory: Path) -> None:
    """What the processes of a step do, by py-spy where it is there; the steps meanwhile count for nothing."""
    spy = os.environ.get("PY_SPY")
    if spy is None:
        return
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    wanted = (
        "AgentLoopWorker",
        "vLLMHttpServer",
        "WorkerDict",
        "TaskRunner",
        "RewardLoopWorker",
        "EngineCore",
        "Storage",
    )
    seen: set[str] = set()
    started: list[subprocess.Popen[bytes]] = []
    for line in listed.splitlines():
        pid, _, title = line.strip().partition(" ")
        for name in wanted:
            if name in title and "py-spy" not in title and name not in seen and ("ray::" in title or "VLLM" in title):
                seen.add(name)
                file = str(directory / f"profile-{name}.txt")
                command = [spy, "record", "-d", "8", "-r", "50", "-f", "raw", "-o", file, "--nonblocking", "-p", pid]
                started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    until = time.monotonic() + 30
    for process in started:
        try:
            process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGINT)
        time.sleep(3)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _steps(directory: Path) -> list[dict[str, float]]:
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found: list[dict[str, float]] = []
    for line in lines:
        try:
            data = json.loads(line)["data"]
        except ValueError:
            continue
        if "timing_s/step" in data:
            found.append(data)
    return found


def _figures(directory: Path) -> dict[str, Any]:
    """Medians of the steps between the first, which warms up, and the one that was profiled."""
    steps = _steps(directory)
    counted = steps[1:PROFILED_STEP] or steps
    result: dict[str, Any] = {"steps": [round(step["timing_s/step"], 3) for step in steps]}
    if not steps:
        return result | {"error": (directory / "log.txt").read_text(errors="replace")[-5000:]}
    names = [
        name for name in counted[-1] if name.startswith(("timing_s/", "actor/perf", "perf/", "response_length/mean"))
    ]
    middle = {name: round(statistics.median(step[name] for step in counted if name in step), 4) for name in names}
    rewards = [round(step["critic/score/mean"], 4) for step in steps if "critic/score/mean" in step]
    return result | {"median": middle, "seconds": middle["timing_s/step"], "rewards": rewards}


def main(work: Path, out: Path, which: list[str]) -> None:
    """Both, or those named."""
    write_rows(work)
    found: dict[str, Any] = {}
    for name, one in (("platform", platform), ("naive", naive)):
        if not which or name in which:
            found[name] = one(work)
            out.write_text(json.dumps(found, indent=1))
            print(name, json.dumps({key: found[name].get(key) for key in ("steps", "median", "error")}), flush=True)
    if len(found) == 2 and all("seconds" in one for one in found.values()):
        print(f"{found['naive']['seconds'] / found['platform']['seconds']:.2f} x faster", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
