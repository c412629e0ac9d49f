"""Samples of a run's memory: torn lines are left out, and no peak is lost when many become few."""

from __future__ import annotations

import json
from typing import Any

from services.runner.usage import samples_of, thinned


def line(second: int, memory: int, gpu: float | None = None) -> bytes:
    gpus: list[dict[str, Any]] = [] if gpu is None else [{"index": 0, "utilization": gpu, "memory_bytes": None}]
    sample = {"at": f"2026-11-23T12:00:{second:02}+00:00", "memory_bytes": memory, "processes": 2, "gpus": gpus}
    return json.dumps(sample | {"host_available_bytes": 100 - second, "host_total_bytes": 100}).encode()


def test_what_is_torn_or_foreign_is_left_out() -> None:
    data = b"\n".join([line(1, 5)[20:], b'{"at": 1}', b"[]", b"\xff", line(2, 7), line(3, 9)[:30]])
    assert [sample.memory_bytes for sample in samples_of(data)] == [7]


def test_the_peak_survives_thinning() -> None:
    samples = samples_of(b"\n".join(line(n, 1000 if n == 17 else n, gpu=n / 100) for n in range(50)))
    few = thinned(samples, 7)
    assert len(few) <= 7
    assert max(sample.memory_bytes for sample in few) == 1000
    assert min(sample.host_available_bytes for sample in few) == 51
    assert max(gpu.utilization or 0 for sample in few for gpu in sample.gpus) == 0.49
    assert [sample.at for sample in few] == sorted(sample.at for sample in few)
    assert thinned(samples, 50) == samples
