"""How fast plans are found: 20,000 candidates ranked on one core, and `ltp plan` from the shell without torch.

The processes measured have no torch in reach: the interpreter is told to import from this repository and from a directory
with links to everything installed but torch, transformers, verl and ray.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from ltp.contracts.recipe import Recipe
from ltp.core.model_config import Architecture
from ltp.planning.choice import explore
from ltp.planning.pools import described_host
from ltp.planning.ranking import pareto, ranked
from tests.bench.result import Result, at_least, at_most
from tests.plan_grid import MODELS, architecture

_ROOT = Path(__file__).resolve().parents[2]
_WANTED, _RUNS = 20_000, 5
_HEAVY = ("torch", "transformers", "verl", "ray", "tensordict", "vllm", "functorch")
_MODEL = "qwen2.5-7b"


def run() -> list[Result]:
    """The two bars of the issue."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return [*_ranking(), *_command()]


def _recipe(hardware_devices: int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench", "algorithm": "grpo", "model": {"path": f"/models/{_MODEL}"}, "dataset": {"name": "d"},
            "training": {"steps": 100, "batch_size": 1024, "learning_rate": 1e-6, "max_length": 4096},
            "reinforcement": {"samples_per_prompt": 8, "max_response_length": 2048},
            "resources": {"devices": 1, "max_devices": hardware_devices},
        }
    )  # fmt: skip


def _ranking() -> list[Result]:
    arch: Architecture = architecture(_MODEL)
    recipe = _recipe(16)
    hosts = [described_host(f"{name}:16", flash_attention=True) for name in ("h100", "a100", "h200", "l40s")]
    seconds: list[float] = []
    spent: list[float] = []
    considered = evaluated = 0
    for _ in range(_RUNS):
        start, before = time.perf_counter(), time.process_time()
        found = explore(recipe, arch, hosts)
        order = ranked(recipe, found.fitting)
        pareto(recipe, order)
        seconds.append(time.perf_counter() - start)
        spent.append(time.process_time() - before)
        considered, evaluated = found.considered, found.considered - len(found.beyond)
    each = [_WANTED * taken / considered for taken in seconds]
    one = [_WANTED * taken / evaluated for taken in seconds]
    cpu = [_WANTED * taken / considered for taken in spent]
    return [
        at_least("candidates in the search", [float(considered)], float(_WANTED), unit="candidates"),
        at_most("20,000 candidates searched and ranked", each, 1.0, unit="s"),
        at_most("20,000 candidates searched and ranked, processor time", cpu, 1.0, unit="s"),
        # Without those ruled out because a smaller micro batch does not fit either.
        at_most("20,000 candidates predicted one by one and ranked", one, 1.0, unit="s"),
    ]


def _command() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        site = _without_torch(Path(place) / "site")
        model = Path(place) / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODELS[_MODEL]))
        results: list[Result] = []
        empty = [_spent([sys.executable, "-S", "-c", "pass"], {}) for _ in range(_RUNS)]
        for algorithm in ("sft", "grpo"):
            file = Path(place) / f"{algorithm}.yaml"
            file.write_text(_yaml(algorithm, model))
            spent = [_timed(site, file) for _ in range(_RUNS + 1)][1:]
            results.append(at_most(f"ltp plan ({algorithm}, h100:8)", [wall for wall, _ in spent], 0.3, unit="s"))
            # What a loaded machine makes of it is in the line above; this is what it costs.
            results.append(at_most(f"ltp plan ({algorithm}), processor time", [cpu for _, cpu in spent], 0.3, unit="s"))
        results.append(at_most("python -c pass, processor time", [cpu for _, cpu in empty], 0.3, unit="s"))
    return results


def _without_torch(site: Path) -> Path:
    """A directory of links to the installed packages but the heavy ones."""
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if entry.suffix != ".pth" and entry.name.split("-")[0].split(".")[0] not in _HEAVY:
            (site / entry.name).symlink_to(entry)
    return site


def _yaml(algorithm: str, model: Path) -> str:
    lines = [
        f"name: bench\nalgorithm: {algorithm}\nmodel: {{path: {model}}}\ndataset: {{name: d}}",
        "training: {steps: 100, batch_size: 256, learning_rate: 1.0e-6, max_length: 4096}",
        "resources: {devices: 8}",
    ]
    return "\n".join([*lines, "reinforcement: {max_response_length: 2048}"] if algorithm == "grpo" else lines)


def _timed(site: Path, recipe: Path) -> tuple[float, float]:
    """Seconds from the shell to the answer, and of processor time."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{_ROOT}:{_ROOT / 'libs'}:{site}"}
    code = "import sys; from ltp.cli.main import app; assert 'torch' not in sys.modules; app()"
    return _spent(
        [sys.executable, "-S", "-c", code, "plan", str(recipe), "--hardware", "h100:8", "--json"], environment
    )


def _spent(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment or None, capture_output=True, text=True, check=True)
    taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not done.stdout or json.loads(done.stdout)["fitting"] > 0
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
