"""What a run was seen to need, from lines as verl writes them."""

from __future__ import annotations

from services.runner.host import parse_gpus
from services.runner.measured import measured

GIB = 1024**3


def test_peaks_and_the_time_of_a_step() -> None:
    lines = [
        {
            "actor/perf/max_memory_allocated_gb": 4.0,
            "actor/perf/max_memory_reserved_gb": 5.0,
            "perf/time_per_step": 90.0,
        },
        {
            "actor/perf/max_memory_allocated_gb": 6.5,
            "actor/perf/max_memory_reserved_gb": 7.0,
            "perf/time_per_step": 10.0,
        },
        {"val/loss": 1.0},
        {"actor/perf/max_memory_allocated_gb": 6.5, "perf/time_per_step": 12.0},
    ]
    found = measured(lines)
    assert found is not None
    assert (found.allocated_bytes, found.reserved_bytes) == (int(6.5 * GIB), 7 * GIB)
    assert (found.step_seconds, found.lines) == (11.0, 3)


def test_a_processor_measures_nothing() -> None:
    assert measured([{"train/perf/max_memory_allocated_gb": 0.0}, {"train/loss": 1.0}]) is None
    assert measured([]) is None


def test_free_memory_of_a_gpu() -> None:
    assert [d.free_bytes for d in parse_gpus("0, NVIDIA H200, 143771, 140000\n1, NVIDIA H200, 143771, [N/A]")] == [
        140000 << 20,
        None,
    ]
