"""What telemetry costs: dispatch with nothing counted, as shipped, and with every trace exported; alternated in one run.

`off` takes the counting out of the same code; `shipped` is `ltp up` as it is (metrics, no exporter); `traced` exports
what a platform keeps that was told of a receiver (a real one here) and nothing else, and is scraped each second; `all` exports every trace.
Training is measured through its own process: steps with the trace exported and without.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.dispatch.servers import CACHE, free_port, postgres, process
from tests.bench.result import Result, higher_is_better
from tests.bench.telemetry.training import measure_training

ROUNDS = 25
BURST = 3000
# 3 % of throughput.
BAR = 0.97
MODES = ("off", "shipped", "traced", "all")


@dataclass
class Side:
    """One mode, started."""

    mode: str
    producer: list[str]
    environment: dict[str, str]
    log: Path
    rates: list[float] = field(default_factory=list[float])


def run() -> list[Result]:
    """All measurements of the suite."""
    CACHE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="telemetry-", dir=CACHE))
    try:
        with ExitStack() as stack:
            endpoint = stack.enter_context(_receiver(place))
            sides = [stack.enter_context(_side(place, mode, endpoint)) for mode in MODES]
            for side in sides:
                _burst(side, 200)  # warm
            for turn in range(ROUNDS):
                # Not always in the same order: what a round leaves behind falls on each in turn.
                for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                    side.rates.append(_burst(side, BURST))
            training = measure_training(place, endpoint)
        print(f"load average {os.getloadavg()[0]:.1f}")
        for side in sides:
            print(f"{side.mode}: {' '.join(f'{rate:.0f}' for rate in side.rates)} jobs/s", flush=True)
        return [*_compare(sides), *training]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compare(sides: list[Side]) -> list[Result]:
    off, *others = sides
    found: list[Result] = []
    for side in others:
        bar = None if side.mode == "all" else BAR
        # Round by round: the machine's moods are the same for both.
        ratios = [mine / theirs for mine, theirs in zip(side.rates, off.rates, strict=True)]
        print(
            f"{side.mode}: ratio of each round {' '.join(f'{r:.3f}' for r in ratios)}, median {statistics.median(ratios):.3f}"
        )
        name = f"dispatch throughput, telemetry {side.mode}"
        found.append(higher_is_better(name, side.rates, off.rates, "off", unit="jobs/s", bar=bar))
    return found


def _burst(side: Side, count: int) -> float:
    side.log.write_text("")
    argv = [*side.producer, "burst", str(count)]
    done = subprocess.run(argv, env=side.environment, check=True, capture_output=True, text=True)
    seconds: float = json.loads(done.stdout)["seconds"]
    return count / seconds


@contextmanager
def _receiver(place: Path) -> Iterator[str]:
    port = free_port()
    with (place / "spans").open("wb") as out:
        receiver = subprocess.Popen([sys.executable, "-m", "oteltap", "--port", str(port)], stdout=out)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            receiver.terminate()
            receiver.wait(10)


@contextmanager
def _side(place: Path, mode: str, endpoint: str) -> Iterator[Side]:
    log = place / f"{mode}.log"
    with ExitStack() as stack:
        url, _ = stack.enter_context(postgres(place / mode))
        environment = {**os.environ, "LTP_DATABASE_URL": url, "BENCH_TELEMETRY": mode}
        if mode in {"traced", "all"}:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        if mode == "all":
            environment["OTEL_TRACES_SAMPLER"] = "always_on"
        argv = [sys.executable, "-m", "tests.bench.telemetry.side"]
        for _ in range(2):
            stack.enter_context(process([*argv, "worker", str(log)], env=environment))
        yield Side(mode, [*argv, "producer"], environment, log)
