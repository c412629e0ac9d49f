"""Dispatch against Celery + Redis, both durable: throughput, latency at 50 pieces a second, CPU; and claims under a deep backlog.

Both sides have one producer process with 8 calls in flight and two workers; ours takes up to 16 pieces at a time, Celery
prefetches 8. Each piece appends a line to a file. Both keep a piece until it is settled and sync each commit to the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.bench.dispatch.backlog import measure_backlog
from tests.bench.dispatch.servers import CACHE, celery_python, postgres, process, redis
from tests.bench.result import Result, higher_is_better, lower_is_better

# Short rounds in turn: what else the machine does then falls on each contender alike.
ROUNDS = 5
BURST = 2000
# The 99th percentile of a few seconds is mostly what the machine did in them: many turns, and the median of them.
PACED = 250
PACED_TURNS = 4
# The first of a producer open its connections; a service has had its own since it started.
WARM = 20
_HERE = Path(__file__).parent


@dataclass
class Side:
    """One contender, started: how to produce, which processes belong to it, and what was measured."""

    name: str
    producer: Callable[[str, int], list[str]]
    environment: dict[str, str]
    directory: Path | None
    log: Path
    pids: Sequence[int]
    rates: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    p50: list[float] = field(default_factory=list[float])
    p99: list[float] = field(default_factory=list[float])


def run() -> list[Result]:
    """All measurements of the suite."""
    CACHE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        with ExitStack() as stack:
            sides = [stack.enter_context(start(place)) for start in (_ours, _prefork, _solo)]
            _measure(sides)
        return [*_compare(*sides), *measure_backlog(place)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _measure(sides: Sequence[Side]) -> None:
    """Each contender in turn, round after round; those whose turn it is not wait idle."""
    for side in sides:
        _produce(side, "burst", 200)  # warm
    for _ in range(ROUNDS):
        for side in sides:
            _burst(side)
        for _ in range(PACED_TURNS):
            for side in sides:
                _paced(side)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for side in sides:
        print(f"{side.name}: {_line(side)}", flush=True)


def _line(side: Side) -> str:
    parts = {"jobs/s": side.rates, "CPU ms/job": side.cpu, "p50 ms": side.p50, "p99 ms": side.p99}
    return ", ".join(f"{name} {' '.join(f'{v:.2f}' for v in values)}" for name, values in parts.items())


def _burst(side: Side) -> None:
    before = _cpu(side.pids)
    found = _produce(side, "burst", BURST)
    side.rates.append(BURST / found["seconds"])
    # The producer's part is what it used between its first call and the last piece, not its start.
    side.cpu.append((_cpu(side.pids) - before + found["cpu"]) / BURST * 1000)


def _paced(side: Side) -> None:
    began = _produce(side, "paced", WARM + PACED)["began"]
    lines = [line.split() for line in side.log.read_text().splitlines()]
    waits = sorted((float(at) - began[int(index)]) * 1000 for index, at in lines if int(index) >= WARM)
    assert len(waits) == PACED, f"{side.name} did {len(waits)} of {PACED}"
    side.p50.append(statistics.median(waits))
    side.p99.append(waits[int(len(waits) * 0.99)])


def _produce(side: Side, how: str, count: int) -> Any:
    """Run a producer to its end; returns what it printed."""
    side.log.write_text("")
    argv = side.producer(how, count)
    done = subprocess.run(argv, env=side.environment, cwd=side.directory, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of processes and all below them, the ended ones that were waited for included."""
    total = 0.0
    for pid in pids:
        parent = psutil.Process(pid)
        for each in [parent, *parent.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            if each.pid == pid:
                total += times.children_user + times.children_system
    return total


@contextmanager
def _ours(place: Path) -> Iterator[Side]:
    log = place / "ours.log"
    with ExitStack() as stack:
        url, server = stack.enter_context(postgres(place / "postgres"))
        environment = {**os.environ, "LTP_DATABASE_URL": url}
        argv = [sys.executable, "-m", "tests.bench.dispatch.our_side"]
        workers = [stack.enter_context(process([*argv, "worker", str(log)], env=environment)) for _ in range(2)]

        def producer(how: str, count: int) -> list[str]:
            return [*argv, "producer", how, str(count)]

        yield Side("ours", producer, environment, None, log, [server, *(w.pid for w in workers)])


@contextmanager
def _prefork(place: Path) -> Iterator[Side]:
    with _celery(place, "prefork", [["--pool", "prefork", "--concurrency", "2"]]) as side:
        yield side


@contextmanager
def _solo(place: Path) -> Iterator[Side]:
    with _celery(place, "solo", [["--pool", "solo"], ["--pool", "solo"]]) as side:
        yield side


@contextmanager
def _celery(place: Path, name: str, workers: list[list[str]]) -> Iterator[Side]:
    python, log = celery_python(), place / f"{name}.log"
    with ExitStack() as stack:
        url, server = stack.enter_context(redis(place / name))
        environment = {**os.environ, "BENCH_REDIS_URL": url, "BENCH_LOG": str(log), "PYTHONPATH": str(_HERE)}
        argv = [str(python), "-m", "celery", "-A", "celery_side", "worker", "--loglevel", "ERROR"]
        argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        started = [
            stack.enter_context(process([*argv, *options, "-n", f"w{n}@b"], env=environment, cwd=_HERE))
            for n, options in enumerate(workers)
        ]

        def producer(how: str, count: int) -> list[str]:
            return [str(python), "celery_side.py", how, str(count)]

        yield Side(f"Celery {name}", producer, environment, _HERE, log, [server, *(w.pid for w in started)])


def _compare(ours: Side, *peers: Side) -> list[Result]:
    def best(values: Callable[[Side], list[float]], most: bool) -> Side:
        return (max if most else min)(peers, key=lambda side: statistics.median(values(side)))

    fast, frugal = best(lambda s: s.rates, True), best(lambda s: s.cpu, False)
    quick, steady = best(lambda s: s.p50, False), best(lambda s: s.p99, False)
    return [
        higher_is_better("throughput", ours.rates, fast.rates, fast.name, unit="jobs/s", bar=2.0),
        lower_is_better("dispatch latency p50 at 50/s", ours.p50, quick.p50, quick.name, unit="ms", bar=1.0),
        lower_is_better("dispatch latency p99 at 50/s", ours.p99, steady.p99, steady.name, unit="ms", bar=1.0),
        lower_is_better("CPU per job", ours.cpu, frugal.cpu, frugal.name, unit="ms", bar=2.0),
    ]
