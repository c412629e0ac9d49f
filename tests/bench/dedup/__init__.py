"""Deduplication: semantic against SemHash on given vectors, and all of ours on texts with planted duplicates."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

from ltp.contracts.dedup import DedupMethod, Thresholds
from services.dataset.dedup.methods import measure
from services.dataset.vectors.encoder import LocalEncoder, model_directory
from tests.bench.dedup import measured
from tests.bench.dedup.corpus import Corpus, planted
from tests.bench.result import Result, at_least, at_most, lower_is_better

CACHE = Path("~/.cache/ltp-bench/dedup").expanduser()
ROWS, SIZE, THRESHOLD = int(os.environ.get("LTP_BENCH_ROWS", "100000")), 384, 0.9
ORIGINALS, COPIES, NEGATIVES = 3000, 600, 300


def run() -> list[Result]:
    """All lines of the suite; minutes, most of them SemHash's."""
    return [*_against_semhash(), *_planted()]


def vectors_with_copies(rows: int, size: int) -> np.ndarray:
    """Four fifths originals whose spectrum falls as that of sentence embeddings does, one fifth perturbed copies of them."""
    random = np.random.default_rng(20261123)
    spectrum = 1 / np.sqrt(1 + np.arange(size) / 60)
    originals = random.standard_normal((rows * 4 // 5, size)) * spectrum
    originals /= np.linalg.norm(originals, axis=1, keepdims=True)
    sources = random.integers(0, len(originals), rows - len(originals))
    noise = random.standard_normal((len(sources), size)) * spectrum / np.linalg.norm(spectrum)
    copies = originals[sources] + noise * random.choice([0.1, 0.3, 0.45, 0.5, 0.6], (len(sources), 1))
    return np.concatenate([originals, copies])[random.permutation(rows)].astype(np.float32)


def _against_semhash() -> list[Result]:
    python = _semhash_python()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors_with_copies(ROWS, SIZE))
        exact = _exact(path)
        ours = [_measured(sys.executable, "ours", path) for _ in range(2)]
        peer = _measured(python, "semhash", path)
    name = f"semantic dedup {ROWS} x {SIZE}"
    same = float(all(found["removed"] == exact["removed"] for found in ours))
    print(
        f"exact greedy removes {len(exact['removed'])}; SemHash {len(peer['removed'])}; exact scan {exact['cpu_seconds']:.0f} CPU s",
        flush=True,
    )
    cpu = [found["cpu_seconds"] for found in ours]
    peak = [found["peak_mib"] for found in ours]
    wall = [found["wall_seconds"] for found in ours]
    return [
        at_least(f"{name}: removals identical to exact greedy cosine", [same], 1.0, unit="share"),
        lower_is_better(f"{name}: CPU", cpu, [peer["cpu_seconds"]], "SemHash 0.5.0", unit="s", bar=3.0),
        lower_is_better(f"{name}: wall", wall, [peer["wall_seconds"]], "SemHash 0.5.0", unit="s", bar=None),
        lower_is_better(f"{name}: peak memory", peak, [peer["peak_mib"]], "SemHash 0.5.0", unit="MiB", bar=None),
    ]


def _exact(path: Path) -> dict[str, Any]:
    """What the definition removes; kept between runs, since it takes minutes and follows from the vectors alone."""
    with path.open("rb") as stream:
        kept = CACHE / f"exact-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}-{THRESHOLD}.json"
    if not kept.exists():
        found = _measured(sys.executable, "exact", path)
        kept.write_text(json.dumps(found))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _planted() -> list[Result]:
    corpus = planted(ORIGINALS, COPIES, NEGATIVES)
    vectors = _embedded(corpus.texts)
    results: list[Result] = []
    defaults = Thresholds()
    ways: list[tuple[DedupMethod, Thresholds, bool]] = [
        ("exact", defaults, False),
        ("near", Thresholds(jaccard=0.7), False),
        ("semantic", Thresholds(cosine=0.9), False),
        ("combined", defaults, True),
    ]
    for method, thresholds, held in ways:
        recall, false, light = _shares(corpus, vectors, method, thresholds)
        if held:
            results.append(at_least(f"{method}: recall of planted duplicates", [recall], 0.97, unit="share"))
            results.append(at_most(f"{method}: hard negatives removed", [false], 0.02, unit="share"))
        else:
            results.append(_informal(f"{method}: recall of planted duplicates", recall))
            results.append(_informal(f"{method}: hard negatives removed", false))
        results.append(_informal(f"{method}: lightly edited removed", light))
    return results


def _shares(corpus: Corpus, vectors: np.ndarray, method: DedupMethod, at: Thresholds) -> tuple[float, float, float]:
    gone = set(measure(method, corpus.texts, vectors, at, at).removals(at).row.tolist())
    recall, false, light = (len(gone & rows) / len(rows) for rows in (corpus.planted, corpus.hard, corpus.light))
    return recall, false, light


def _embedded(texts: list[str]) -> np.ndarray:
    """The texts' vectors by the default model, kept between runs of the benchmark: embedding them takes minutes."""
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = CACHE / f"vectors-{key}.npy"
    if not path.exists():
        np.save(path, asyncio.run(_embed(texts)))
    return np.load(path)


async def _embed(texts: list[str]) -> np.ndarray:
    encoder = LocalEncoder(model_directory(None, Path()))
    try:
        parts = [(await encoder.encode(texts[i : i + 256])).vectors for i in range(0, len(texts), 256)]
    finally:
        await encoder.close()
    return np.concatenate(parts)


def _measured(python: str, way: str, path: Path) -> dict[str, Any]:
    argv = [python, measured.__file__, way, str(path), str(THRESHOLD)]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "0"}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _semhash_python() -> str:
    python = CACHE / "bin" / "python"
    if not python.exists():
        venv.create(CACHE, with_pip=True)
    have = subprocess.run([python, "-c", "import semhash"], capture_output=True, check=False).returncode == 0
    if not have:
        subprocess.run([python, "-m", "pip", "install", "-q", "semhash==0.5.0"], check=True, stdout=subprocess.DEVNULL)
    return str(python)


def _informal(name: str, value: float) -> Result:
    return Result(name, value, None, "", float("nan"), None, None, "share", 1, 0.0)
