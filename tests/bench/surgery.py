"""Merges against mergekit 0.1.5 from PyPI: wall time, memory, and whether the bits are the same.

`python -m tests.bench surgery`. Both sides are whole processes, interpreter start and imports included, on warm page cache; ours
flushes its output to the disk (fsync), mergekit does not. Models: a synthetic Llama of 1.1 billion bfloat16 weights with three
variants, and one of SmolLM2-135M's shape. LTP_BENCH_ONLY=linear,slerp narrows it; LTP_BENCH_MODELS names the folder (9 GB).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Run:
    """One process: wall seconds, and the most anonymous memory it had at a sampling every 10 ms."""

    seconds: float
    anonymous_mb: float


def run() -> list[Result]:
    """Every line of the suite."""
    only = [name for name in os.environ.get("LTP_BENCH_ONLY", "").split(",") if name]
    wanted = [name for name in BARS if not only or name in only]
    peer = _peer()
    small, large = written("135M"), written("1.1B")
    results = fidelity(peer, small, [name for name in wanted if name != "dare_ties"])
    memory = {"135M": _ours(recipe("linear", small), small / "out").anonymous_mb}
    for name in wanted:
        if BARS[name] is None:
            continue
        _warm(large)
        with _cleared(large / "out") as out:
            ours = _ours(recipe(name, large), out)
            memory["1.1B"] = max(memory.get("1.1B", 0.0), ours.anonymous_mb)
            if name == "linear":
                results.append(_against_the_disk(large, out, ours))
        with _cleared(large / "out") as out:
            theirs = _theirs(peer, recipe(name, large), out)
        results.append(
            lower_is_better(f"{name} 1.1B", [ours.seconds], [theirs.seconds], PEER, unit="s", bar=BARS[name])
        )
        pair = ([ours.anonymous_mb], [theirs.anonymous_mb])
        results.append(lower_is_better(f"{name} 1.1B anonymous memory", *pair, PEER, unit="MB", bar=None))
    if not only or "7B" in only:
        memory["7B"] = _seven_billion()
        results.append(at_most("slerp 7B x 2 anonymous memory", [memory["7B"]], 1000, unit="MB"))
    results += [at_most(f"anonymous memory, {size}", [value], 500, unit="MB") for size, value in memory.items()]
    return results


def recipe(method: str, folder: Path) -> dict[str, Any]:
    """A merge of three variants with their base, or of two for SLERP."""
    base, *variants = (str(folder / name) for name in ("base", "m1", "m2", "m3"))
    found: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        t = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"value": 0.5}]
        models = [{"model": variant} for variant in variants[:2]]
        return found | {"base_model": variants[0], "models": models, "parameters": {"t": t}}
    values: dict[str, Any] = {} if method in {"linear", "task_arithmetic"} else {"density": 0.5}
    models = [
        {"model": variant, "parameters": {"weight": weight} | values}
        for variant, weight in zip(variants, (0.3, 0.3, 0.4), strict=True)
    ]
    return found | {"models": models} | ({} if method == "linear" else {"base_model": base})


def fidelity(peer: Path, folder: Path, methods: Sequence[str]) -> list[Result]:
    """How many elements differ from the peer's, on the small models."""
    results: list[Result] = []
    for name in methods:
        with _cleared(folder / "out") as ours, _cleared(folder / "peer") as theirs:
            _ours(recipe(name, folder), ours)
            _theirs(peer, recipe(name, folder), theirs)
            if name == "slerp":
                (first,), (second,) = _open(folder / "m1"), _open(folder / "m2")
                worst = max(_ulps(a, b, first.get_tensor(n), second.get_tensor(n)) for n, a, b in _pairs(ours, theirs))
                results.append(at_most("slerp, largest difference", [worst], 1, unit="bf16 ulp"))
            elif name == "ties":
                off = sum(_off_ties(folder, n, a, b) for n, a, b in _pairs(ours, theirs))
                results.append(at_most("ties, elements that differ off tied thresholds", [off], 0, unit="elements"))
            else:
                differ = sum(int((a != b).sum()) for _, a, b in _pairs(ours, theirs))
                results.append(at_most(f"{name}, elements that differ", [differ], 0, unit="elements"))
    return results


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


def _against_the_disk(folder: Path, out: Path, ours: Run) -> Result:
    """Ours against reading the three inputs and writing the output with nothing in between, flushed as ours is."""
    _warm(folder)
    size, buffer = (out / "model.safetensors").stat().st_size, bytearray(4 << 20)
    shutil.rmtree(out)
    out.mkdir()
    began = time.perf_counter()
    for name in ("m1", "m2", "m3"):
        with (folder / name / "model.safetensors").open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    with (out / "plain").open("wb", buffering=0) as stream:
        for _ in range(size // len(buffer)):
            stream.write(buffer)
        os.fsync(stream.fileno())
    plain = time.perf_counter() - began
    # 1.3 times as slow is the bar: a ratio of 1 / 1.3.
    return lower_is_better(
        "linear 1.1B against plain I/O", [ours.seconds], [plain], "read + write", unit="s", bar=1 / 1.3
    )


def _seven_billion() -> float:
    """Two synthetic models of 7 billion weights, 42 GB with the output, removed afterwards."""
    folder = written("7B", 3)
    try:
        shutil.rmtree(folder / "base")
        return _ours(recipe("slerp", folder), folder / "out").anonymous_mb
    finally:
        shutil.rmtree(folder)


def _ours(what: dict[str, Any], out: Path) -> Run:
    spec = {"kind": "merge", "recipe": what, "out": str(out), "proof": False, "seed": 7}
    return _measured([sys.executable, "-m", "ltp.tensors.operate", "run"], json.dumps(spec) + "\n")


def _theirs(peer: Path, what: dict[str, Any], out: Path) -> Run:
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(what))
    options = ["--no-copy-tokenizer", "--random-seed", "7", "--quiet"]
    return _measured([str(peer / "bin" / "mergekit-yaml"), str(config), str(out), *options], "")


def _measured(argv: list[str], stdin: str) -> Run:
    began, peak, over = time.perf_counter(), [0], threading.Event()
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
    return Run(seconds, peak[0] / 1024)


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


def _ulps(one: torch.Tensor, other: torch.Tensor, *inputs: torch.Tensor) -> float:
    """The largest difference in units of the last place of the largest of results and inputs, element by element.

    Where the two inputs cancel, the result is a remainder near zero, in whose own units any difference is huge.
    """
    size = torch.stack([t.float().abs() for t in (one, other, *inputs)]).amax(0).clamp_(min=2.0**-126)
    # bfloat16 has 8 bits of precision: 7 behind the leading one.
    unit = torch.exp2(torch.floor(torch.log2(size)) - 7)
    return float(((one.float() - other.float()).abs() / unit).max())


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
