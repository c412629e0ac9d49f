"""Merges against mergekit 0.1.5 from PyPI: wall time, memory, and whether the bits are the same.

`python -m tests.bench surgery`. Both sides are whole processes, interpreter start and imports included, on warm page cache, in turns;
neither flushes its output to the disk, but for the line that says so. Ours also checks every value to be finite; neither hashes.
Models: a synthetic Llama of 1.1 billion bfloat16 weights with three variants, and one of SmolLM2-135M's shape. LTP_BENCH_ONLY=linear,slerp
narrows it (also: disk, 7B), LTP_BENCH_SIZE=135M makes the timed models smaller, LTP_BENCH_RUNS=3 repeats, LTP_BENCH_MODELS names the folder (9 GB).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

from ltp.core.model_config import read_architecture, weight_shapes
from ltp.tensors.layout import Target, laid_out
from tests.bench.result import Result, at_most, lower_is_better

CACHE = Path.home() / ".cache" / "ltp-bench" / "surgery"
MODELS = Path(os.environ.get("LTP_BENCH_MODELS", CACHE / "models"))
PEER = "mergekit 0.1.5"
BARS = {"linear": 6.0, "slerp": 5.0, "ties": 5.0, "dare_ties": 5.0, "task_arithmetic": None}
_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "dtype": "bfloat16",
}
SIZES: dict[str, dict[str, Any]] = {
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "1.1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": False},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
_NOISE = 1 << 22
_GRADIENT = [0, 0.5, 0.3, 0.7, 1]


@dataclass(frozen=True)
class Run:
    """One process: wall and processor seconds, and the most anonymous memory it had at a sampling every 10 ms."""

    seconds: float
    cpu_seconds: float
    anonymous_mb: float


def run() -> list[Result]:
    """Every line of the suite."""
    only = [name for name in os.environ.get("LTP_BENCH_ONLY", "").split(",") if name]
    wanted = [name for name in BARS if not only or name in only]
    size, runs = os.environ.get("LTP_BENCH_SIZE", "1.1B"), int(os.environ.get("LTP_BENCH_RUNS", "1"))
    peer, small, results = _peer(), written("135M"), list[Result]()
    for name in wanted:
        results += fidelity(peer, small, name)
    memory: dict[str, list[float]] = {}
    if wanted:
        memory["135M"] = [_ours(recipe(wanted[0], small), small / "out").anonymous_mb]
        shutil.rmtree(small / "out")
    for name in wanted:
        if BARS[name] is not None:
            lines, used = _race(peer, name, size, runs)
            results += lines
            memory.setdefault(size, []).extend(used)
    if not only or "disk" in only:
        results += [_against_the_disk(written(size), size, flush=flush) for flush in (False, True)]
    if not only or "7B" in only:
        memory["7B"] = [_seven_billion()]
        results.append(at_most("slerp 7B x 2 anonymous memory", memory["7B"], 1000, unit="MB"))
    results += [at_most(f"anonymous memory, {size}", [max(used)], 500, unit="MB") for size, used in memory.items()]
    return results


def _race(peer: Path, name: str, size: str, runs: int) -> tuple[list[Result], list[float]]:
    """A method's lines, and the memory that ours took: one of ours, one of theirs, and so on."""
    folder, ours, theirs = written(size), list[Run](), list[Run]()
    _warm(folder)
    for _ in range(runs):
        with _cleared(folder / "out") as out:
            ours.append(_ours(recipe(name, folder), out))
        with _cleared(folder / "peer") as out:
            theirs.append(_theirs(peer, recipe(name, folder), out))
    kinds = (("", "s", "seconds", BARS[name]), (" processor time", "s", "cpu_seconds", None))
    kinds += ((" anonymous memory", "MB", "anonymous_mb", None),)
    lines = [
        lower_is_better(
            f"{name} {size}{label}",
            *([getattr(r, key) for r in side] for side in (ours, theirs)),
            PEER,
            unit=unit,
            bar=bar,
        )
        for label, unit, key, bar in kinds
    ]
    return lines, [r.anonymous_mb for r in ours]


def recipe(method: str, folder: Path) -> dict[str, Any]:
    """A merge of three variants with their base, or of two for SLERP."""
    base, *variants = (str(folder / name) for name in ("base", "m1", "m2", "m3"))
    found: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        t = [{"filter": "self_attn", "value": _GRADIENT}, {"value": 0.5}]
        models = [{"model": variant} for variant in variants[:2]]
        return found | {"base_model": variants[0], "models": models, "parameters": {"t": t}}
    values: dict[str, Any] = {} if method in {"linear", "task_arithmetic"} else {"density": 0.5}
    models = [
        {"model": variant, "parameters": {"weight": weight} | values}
        for variant, weight in zip(variants, (0.3, 0.3, 0.4), strict=True)
    ]
    return found | {"models": models} | ({} if method == "linear" else {"base_model": base})


def fidelity(peer: Path, folder: Path, name: str) -> list[Result]:
    """How many elements differ from the peer's, on the small models."""
    if name == "dare_ties":
        # Other random numbers on purpose.
        return []
    with _cleared(folder / "out") as ours, _cleared(folder / "peer") as theirs:
        _ours(recipe(name, folder), ours)
        _theirs(peer, recipe(name, folder), theirs)
        if name == "slerp":
            return _spherical(folder, ours, theirs)
        if name == "ties":
            off = sum(_off_ties(folder, n, a, b) for n, a, b in _pairs(ours, theirs))
            return [at_most("ties, elements that differ off tied thresholds", [off], 0, unit="elements")]
        differ = sum(int((a != b).sum()) for _, a, b in _pairs(ours, theirs))
        return [at_most(f"{name}, elements that differ", [differ], 0, unit="elements")]


def _spherical(folder: Path, ours: Path, theirs: Path) -> list[Result]:
    """Both against the same formula in float64, in units of the last place of each value, near zero too."""
    (first,), (second,) = _open(folder / "m1"), _open(folder / "m2")
    apart, worst, farther, error, their_error = 0, 0.0, 0, 0.0, 0.0
    for name, one, other in _pairs(ours, theirs):
        exact = _slerp64(name, first.get_tensor(name), second.get_tensor(name))
        here, there = _ulps(one, exact), _ulps(other, exact)
        between = (one.double() - other.double()).abs() / _spacing(torch.maximum(one.abs(), other.abs()))
        beyond = between > 1
        apart, farther = apart + int(beyond.sum()), farther + int((beyond & (here > there)).sum())
        worst, error = max(worst, float(between.max())), max(error, float(here.max()))
        their_error = max(their_error, float(there.max()))
    return [
        at_most("slerp, largest difference", [worst], 1, unit="bf16 ulp"),
        at_most("slerp, elements more than 1 bf16 ulp apart", [apart], 0, unit="elements"),
        at_most("slerp, of those: ours farther from float64 than the peer's", [farther], 0, unit="elements"),
        lower_is_better("slerp, largest error against float64", [error], [their_error], PEER, unit="bf16 ulp", bar=1.0),
    ]


def _slerp64(name: str, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The formula that both sides document, in float64; t by `recipe`'s rules."""
    a, b, t = one.double(), other.double(), 0.5
    if "self_attn" in name:
        # Layer i of L has the place i / (L - 1) on the gradient's five points.
        place = int(name.split(".")[2]) / (SIZES["135M"]["num_hidden_layers"] - 1) * 4
        left = min(int(place), 3)
        t = _GRADIENT[left] + (place - left) * (_GRADIENT[left + 1] - _GRADIENT[left])
    cosine = (a * b).sum() / (a.norm() * b.norm())
    if abs(float(cosine)) > 0.9995:
        return (1 - t) * a + t * b
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def written(size: str, count: int = 4) -> Path:
    """A folder with `base` and variants of a size, written once."""
    folder = MODELS / size
    config = _LLAMA | SIZES[size]
    shapes = weight_shapes(read_architecture(config))
    made = torch.Generator().manual_seed(0)
    base = torch.randn(_NOISE, generator=made).mul_(0.02)
    for name in ("base", "m1", "m2", "m3")[:count]:
        noise = base if name == "base" else base + torch.randn(_NOISE, generator=made).mul_(0.002)
        if (folder / name / "config.json").exists():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        _write(folder / name, shapes, noise.bfloat16())
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def _write(folder: Path, shapes: dict[str, tuple[int, ...]], noise: torch.Tensor) -> None:
    """Every weight is the same noise, begun at another place, so that writing is as quick as the disk."""
    (shard,) = laid_out([Target(name, "BF16", shape) for name, shape in shapes.items()], 1 << 62)
    block = memoryview(torch.cat([noise, noise]).view(torch.uint8).numpy().data)
    with (folder / shard.file).open("wb", buffering=0) as stream:
        stream.write(shard.header)
        for place, shape in enumerate(shapes.values()):
            left = 2 * torch.Size(shape).numel()
            begin = 2 * (place * 100_003 % _NOISE)
            while left:
                part = min(left, 2 * _NOISE)
                stream.write(block[begin : begin + part])
                left -= part


def _against_the_disk(folder: Path, size: str, *, flush: bool) -> Result:
    """Ours against reading the three inputs and writing the output with nothing in between."""
    _warm(folder)
    buffer = bytearray(4 << 20)
    with _cleared(folder / "out") as out:
        ours = _ours(recipe("linear", folder), out, flush=flush)
        written_bytes = (out / "model.safetensors").stat().st_size
    began = time.perf_counter()
    for name in ("m1", "m2", "m3"):
        with (folder / name / "model.safetensors").open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    with _cleared(folder / "out") as out:
        out.mkdir()
        with (out / "plain").open("wb", buffering=0) as stream:
            for _ in range(written_bytes // len(buffer)):
                stream.write(buffer)
            if flush:
                os.fsync(stream.fileno())
        plain = time.perf_counter() - began
    label = f"linear {size} against plain I/O" + (", both flushed" if flush else "")
    # 1.3 times as slow is the bar: a ratio of 1 / 1.3.
    return lower_is_better(label, [ours.seconds], [plain], "read + write", unit="s", bar=1 / 1.3)


def _seven_billion() -> float:
    """Two synthetic models of 7 billion weights, 42 GB with the output, removed afterwards."""
    folder = written("7B", 3)
    try:
        shutil.rmtree(folder / "base")
        return _ours(recipe("slerp", folder), folder / "out").anonymous_mb
    finally:
        shutil.rmtree(folder)


def _ours(what: dict[str, Any], out: Path, *, flush: bool = False) -> Run:
    spec = {"kind": "merge", "recipe": what, "out": str(out), "proof": False, "seed": 7, "flush": flush}
    return _measured([sys.executable, "-m", "ltp.tensors.operate", "run"], json.dumps(spec) + "\n")


def _theirs(peer: Path, what: dict[str, Any], out: Path) -> Run:
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(what))
    options = ["--no-copy-tokenizer", "--random-seed", "7", "--quiet"]
    return _measured([str(peer / "bin" / "mergekit-yaml"), str(config), str(out), *options], "")


def _measured(argv: list[str], stdin: str) -> Run:
    began, before, peak, over = time.perf_counter(), _children_seconds(), [0], threading.Event()
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    sampler = threading.Thread(target=_sample, args=(process.pid, peak, over))
    sampler.start()
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(stdin)
    process.stdin.flush()
    # Left open until the end: our process stops when it closes.
    said = process.stderr.read()
    code = process.wait()
    seconds = time.perf_counter() - began
    over.set()
    sampler.join()
    if code:
        raise RuntimeError(f"{argv[0]} ended with {code}: {said[-2000:]}")
    return Run(seconds, _children_seconds() - before, peak[0] / 1024)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sample(pid: int, peak: list[int], over: threading.Event) -> None:
    while not over.wait(0.01):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        peak[0] = max([peak[0], *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])


def _pairs(ours: Path, theirs: Path) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    mine = {name: file for file in _open(ours) for name in file.keys()}  # noqa: SIM118 - no mapping
    other = {name: file for file in _open(theirs) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert mine.keys() == other.keys()
    for name, file in mine.items():
        yield name, file.get_tensor(name), other[name].get_tensor(name)


def _open(folder: Path) -> list[Any]:
    return [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]


def _spacing(values: torch.Tensor) -> torch.Tensor:
    """From a value to the next one in bfloat16, which has 7 bits behind the leading one. float64."""
    return torch.exp2(torch.floor(torch.log2(values.double().abs().clamp_(min=2.0**-126))) - 7)


def _ulps(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The error of each element in units of the last place of what it should be."""
    return (found.double() - exact).abs() / _spacing(exact)


def _off_ties(folder: Path, name: str, one: torch.Tensor, other: torch.Tensor) -> int:
    """Elements that differ though no model's difference from the base ties with its threshold there."""
    (base,) = _open(folder / "base")
    tied = torch.zeros_like(one, dtype=torch.bool)
    for variant in ("m1", "m2", "m3"):
        size = (_open(folder / variant)[0].get_tensor(name) - base.get_tensor(name)).abs().float()
        kept = max(1, int(0.5 * size.numel()))
        tied |= size == size.flatten().kthvalue(size.numel() - kept + 1).values
    return int(((one != other) & ~tied).sum())


def _warm(folder: Path) -> None:
    """Read every input once, so that neither side pays for a cold disk."""
    for path in folder.glob("*/model.safetensors"):
        with path.open("rb", buffering=0) as stream:
            while stream.read(16 << 20):
                pass


@contextmanager
def _cleared(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _peer() -> Path:
    """mergekit in an environment of its own, made at the first run."""
    venv = CACHE / "venv"
    if not (venv / "bin" / "mergekit-yaml").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        for package in ("torch==2.13.0", "mergekit==0.1.5"):
            subprocess.run([str(venv / "bin" / "pip"), "install", "-q", package], check=True, capture_output=True)
    return venv
