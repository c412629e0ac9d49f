"""Merges on a GPU against the same merges on all processors: seconds, bytes that differ, and what is taken of the GPU.

    python3 -m tests.gpu.merge_gpu FOLDER OUT.json [LAYERS [DEVICE]]

Three synthetic bfloat16 models of 22 layers, 3.2 GB each, are made in FOLDER. OUT.json is rewritten after each merge. No
part of the platform runs beside it: what is timed is the writing of the weights (`Merge.write`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

# As the platform's own process has it (`ltp.tensors.operate`): BLAS's threads would fight with the merge's for the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ltp.core.errors import LtpError
from ltp.core.model_config import read_architecture, weight_shapes
from ltp.recipe_text import check_merge
from ltp.tensors.accelerator import must_work
from ltp.tensors.engine import threads
from ltp.tensors.merge import Merge

SEED = 11
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
# Of the GPU: too little for large pieces of every thread, and too little for anything.
TIGHT, NOTHING = 0.012, 0.0002
BUDGET_SECONDS = 105.0


def make_models(folder: Path, layers: int, device: str) -> list[Path]:
    """A base and two that were tuned from it, as far as statistics go."""
    config = CONFIG | {"num_hidden_layers": layers}
    shapes = weight_shapes(read_architecture(config))
    made = torch.Generator(device).manual_seed(SEED)
    weights: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for name, shape in shapes.items():
        base = torch.randn(shape, generator=made, device=device).mul_(0.02)
        for index, model in enumerate(weights):
            noise = torch.randn(shape, generator=made, device=device).mul_(0.002 if index else 0.0)
            model[name] = noise.add_(base).bfloat16().cpu()
    paths = [folder / f"m{index}" for index in range(3)]

    def save(path: Path, model: dict[str, torch.Tensor]) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        save_file(model, path / "model.safetensors", metadata={"format": "pt"})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, paths, weights))
    return paths


def recipes(base: Path, one: Path, other: Path) -> dict[str, dict[str, Any]]:
    """The merges of the bench, by name."""

    def of(method: str, models: tuple[Path, ...], **parameters: float) -> dict[str, Any]:
        return {"merge_method": method, "models": [{"model": str(m), "parameters": parameters} for m in models]}

    two = [{"model": str(base)}, {"model": str(one)}]
    return {
        "linear": of("linear", (base, one, other), weight=0.3),
        "slerp": {"merge_method": "slerp", "base_model": str(base), "models": two, "parameters": {"t": 0.4}},
        "ties": of("ties", (one, other), weight=0.5, density=0.4) | {"base_model": str(base)},
        "dare_ties": of("dare_ties", (one, other), weight=0.5, density=0.5) | {"base_model": str(base)},
    }


def merge(recipe: dict[str, Any], out: Path, device: str | None) -> dict[str, Any]:
    """One merge: its seconds, bytes a second, and the most that was taken of the GPU."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    on_gpu = device is not None and device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work = Merge(check_merge(recipe), seed=SEED, device=device)
    began = time.monotonic()
    work.write(out, "", Event(), lambda _: None)
    seconds = time.monotonic() - began
    moved = work.prepared.read_bytes + work.write_bytes
    found = {"seconds": round(seconds, 3), "gb_per_second": round(moved / seconds / 1e9, 2)}
    if on_gpu:
        found["gpu_allocated_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        found["gpu_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return found


def compare(one: Path, other: Path, device: str) -> dict[str, Any]:
    """How many values of two results differ, in how many weights, and by how many bfloat16 steps at most."""
    found = {
        "elements": 0,
        "different": 0,
        "more_than_one_step": 0,
        "most_steps": 0,
        "weights": 0,
        "weights_different": 0,
    }
    for left, right in _pairs(one, other, device):
        steps = (_ordered(left) - _ordered(right)).abs_()
        different = int(torch.count_nonzero(steps))
        found["elements"] += steps.numel()
        found["weights"] += 1
        if different:
            found["different"] += different
            found["weights_different"] += 1
            found["more_than_one_step"] += int((steps > 1).sum())
            found["most_steps"] = max(found["most_steps"], int(steps.max()))
    return found


def _pairs(one: Path, other: Path, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for file in sorted(path.name for path in one.glob("*.safetensors")):
        with safe_open(one / file, "pt") as left, safe_open(other / file, "pt") as right:
            for name in left.keys():  # noqa: SIM118 - it is no dictionary
                yield left.get_tensor(name).to(device), right.get_tensor(name).to(device)


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers in the order of the bfloat16 values, one a step; both zeros are 0."""
    bits = values.view(torch.int16).to(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def starved(recipe: dict[str, Any], folder: Path, device: str) -> dict[str, Any]:
    """The same merge where the GPU has little memory, which changes no byte, and where it has none, which is an error with a code."""
    found: dict[str, Any] = {}
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(TIGHT)
    found["tight"] = merge(recipe, folder / "tight", device)
    torch.cuda.set_per_process_memory_fraction(1.0)
    found["tight"] |= compare(folder / "processor", folder / "tight", device)
    shutil.rmtree(folder / "tight")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(NOTHING)
    try:
        merge(recipe, folder / "nothing", device)
        found["nothing"] = "it worked"
    except LtpError as error:
        found["nothing"] = f"{error.code}: {error}"
    torch.cuda.set_per_process_memory_fraction(1.0)
    shutil.rmtree(folder / "nothing", ignore_errors=True)
    return found


def measure(folder: Path, out: Path, layers: int, device: str) -> None:
    """Every merge on both, the one after the other; `out` is rewritten after each."""
    began = time.monotonic()
    must_work(device)
    on_gpu = device.startswith("cuda")
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if on_gpu else device, "torch": torch.__version__, "threads": threads(), "merges": {}
    }  # fmt: skip

    def note() -> None:
        found["elapsed_seconds"] = round(time.monotonic() - began, 1)
        out.write_text(json.dumps(found, indent=1))

    models = make_models(folder, layers, device)
    found["model_gb"] = round((models[0] / "model.safetensors").stat().st_size / 1e9, 2)
    found["made_seconds"] = round(time.monotonic() - began, 1)
    for name, recipe in recipes(*models).items():
        # Twice: the first loads libraries and kernels.
        line: dict[str, Any] = {"processor_first": merge(recipe, folder / "processor", None)}
        line["processor"] = merge(recipe, folder / "processor", None)
        found["merges"][name] = line
        note()
        line["gpu_first"] = merge(recipe, folder / "gpu", device)
        line["gpu"] = merge(recipe, folder / "gpu", device)
        line["ratio"] = round(line["processor"]["seconds"] / line["gpu"]["seconds"], 2)
        line["difference"] = compare(folder / "processor", folder / "gpu", device)
        shutil.rmtree(folder / "gpu")
        print(name, json.dumps(line), flush=True)
        note()
        if name == "ties" and on_gpu and time.monotonic() - began < BUDGET_SECONDS - 20:
            found["starved"] = starved(recipe, folder, device)
            print("starved", json.dumps(found["starved"]), flush=True)
        note()
        if time.monotonic() - began > BUDGET_SECONDS:
            break


if __name__ == "__main__":
    rest = sys.argv[3:]
    measure(Path(sys.argv[1]), Path(sys.argv[2]), int(rest[0]) if rest else 22, rest[1] if len(rest) > 1 else "cuda")
