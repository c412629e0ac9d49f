"""The pulse of attempts that this runner watches: steps and their health for the metrics, and which attempt fell silent.

Kept in this process alone: how long an attempt has been silent is what its watcher sees, and nothing is decided by it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.telemetry.metrics import SECONDS_OF_STEPS, counter, gauge, histogram, replace_all
from services.runner.policy import complete_lines
from services.runner.traces import MetricsLine

STEPS = counter("ltp_training_steps_total", "Steps that running attempts logged.", "algorithm")
STEP_DURATION = histogram(
    "ltp_training_step_duration_seconds", "Duration of a step, as verl logs it.", "algorithm", buckets=SECONDS_OF_STEPS
)
TOKENS = counter("ltp_training_tokens_total", "Tokens that steps trained on, as verl logs them.", "algorithm")
NOT_FINITE = counter(
    "ltp_training_nonfinite_steps_total", "Steps that logged a value that is no finite number.", "algorithm"
)
CHECKPOINTS = counter("ltp_checkpoints_written_total", "Complete checkpoints found on hosts.", "algorithm")
OUT_OF_SIGHT = counter(
    "ltp_attempts_out_of_sight_total", "Looks at an attempt that its host being out of reach spoilt."
)
STALLED = gauge("ltp_training_runs_stalled", "Running attempts without news for ten usual steps and ten minutes.")
SILENCE = gauge("ltp_training_silence_seconds", "The longest time since a running attempt had news.")
GPU_BUSY = gauge("ltp_gpu_utilization_ratio", "How busy a GPU was at the launcher's last sample.", "host", "gpu")
GPU_MEMORY = gauge("ltp_gpu_memory_used_bytes", "Memory of a GPU in use.", "host", "gpu")
GPU_POWER = gauge("ltp_gpu_power_watts", "Power that a GPU draws.", "host", "gpu")
HOST_AVAILABLE = gauge("ltp_host_memory_available_bytes", "Memory that a host with a run has left.", "host")
RUN_MEMORY = gauge("ltp_training_memory_bytes", "Memory of all training processes of a host.", "host")

SAMPLE_SECONDS = 10.0
# An attempt is silent for longer than this and ten of its usual steps before it is called stalled.
_PATIENCE_SECONDS, _PATIENCE_STEPS = 600.0, 10
_STEP_SECONDS = ("timing_s/step", "perf/time_per_step")
_TOKENS = ("perf/total_num_tokens", "train/global_tokens")

_felt: dict[UUID, Pulse] = {}


@dataclass
class Pulse:
    """One attempt, as its watcher sees it."""

    algorithm: str
    last_at: float = field(default_factory=time.monotonic)
    _sampled_at: float = 0.0
    _steps: deque[float] = field(default_factory=lambda: deque[float](maxlen=20))
    memory: dict[str, float] = field(default_factory=dict[str, float])

    def news(self, lines: Sequence[MetricsLine], checkpoints: int) -> None:
        """Count what an attempt has written since the last look."""
        if not lines and not checkpoints:
            return
        self._note_pace(lines)
        CHECKPOINTS.labels(self.algorithm).inc(checkpoints)
        for line in lines:
            if line.not_finite:
                NOT_FINITE.labels(self.algorithm).inc()
            if line.step <= 0 or all(key.startswith("val") for key in line.values):
                continue
            STEPS.labels(self.algorithm).inc()
            TOKENS.labels(self.algorithm).inc(max(0.0, _first(line.values, _TOKENS) or 0.0))
            if (seconds := _first(line.values, _STEP_SECONDS)) is not None:
                STEP_DURATION.labels(self.algorithm).observe(seconds)

    def wants_sample(self) -> bool:
        """Whether it is time to look at the launcher's samples again."""
        return time.monotonic() - self._sampled_at >= SAMPLE_SECONDS

    def sampled(self, host: str, samples: bytes) -> None:
        """Take over the last whole sample of the launcher: memory, and each GPU of the host."""
        self._sampled_at = time.monotonic()
        for raw in reversed(complete_lines(samples)):
            with suppress(ValueError, KeyError, TypeError):
                sample: dict[str, Any] = json.loads(raw)
                self.memory = {host: float(sample["memory_bytes"])}
                HOST_AVAILABLE.labels(host).set(float(sample["host_available_bytes"]))
                for gpu in sample["gpus"]:
                    _tell_gpu(host, gpu)
                return

    def silence(self, at: float) -> float:
        """Seconds since it had news."""
        return at - self.last_at

    def stalled(self, at: float) -> bool:
        """Silent for ten of its usual steps, and for ten minutes."""
        usual = median(self._steps) if self._steps else 0.0
        return self.silence(at) > max(_PATIENCE_SECONDS, _PATIENCE_STEPS * usual)

    def _note_pace(self, lines: Sequence[MetricsLine]) -> None:
        at = time.monotonic()
        if lines:
            self._steps.append((at - self.last_at) / len(lines))
        self.last_at = at


@contextmanager
def felt(attempt_id: UUID, algorithm: str) -> Iterator[Pulse]:
    """The pulse of an attempt for as long as it is watched."""
    pulse = _felt[attempt_id] = Pulse(algorithm)
    try:
        yield pulse
    finally:
        _felt.pop(attempt_id, None)


async def read_pulses(_: AsyncConnection) -> None:
    """Set the gauges that fold all attempts in sight."""
    at, memory = time.monotonic(), dict[str, float]()
    SILENCE.set(max((pulse.silence(at) for pulse in _felt.values()), default=0.0))
    STALLED.set(sum(pulse.stalled(at) for pulse in _felt.values()))
    for pulse in _felt.values():
        for host, used in pulse.memory.items():
            memory[host] = memory.get(host, 0.0) + used
    replace_all(RUN_MEMORY, [({"host": host}, used) for host, used in memory.items()])
    if not _felt:
        # Nobody samples any more; an old value would look like a fresh one.
        for each in (GPU_BUSY, GPU_MEMORY, GPU_POWER, HOST_AVAILABLE):
            each.clear()


def _tell_gpu(host: str, gpu: dict[str, Any]) -> None:
    index = str(int(gpu["index"]))
    for which, key in (
        (GPU_BUSY, "utilization"),
        (GPU_MEMORY, "memory_bytes"),
        (GPU_POWER, "power_watts"),
    ):
        if gpu.get(key) is not None:
            which.labels(host, index).set(float(gpu[key]))


def _first(values: dict[str, float], endings: Sequence[str]) -> float | None:
    return next((value for key, value in values.items() if key.endswith(tuple(endings))), None)
