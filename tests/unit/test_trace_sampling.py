"""Which traces are kept under a flood, and which of its processes keep a trace whole."""

from __future__ import annotations

from collections import Counter

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ltp.telemetry.sampling import PerSecond, whole_traces
from ltp.telemetry.setup import tracer_provider


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def kept(provider: TracerProvider, name: str, times: int) -> int:
    tracer = provider.get_tracer("test")
    return sum(tracer.start_span(name).is_recording() for _ in range(times))


def test_ordinary_use_is_kept_whole_and_of_a_flood_so_many_a_second() -> None:
    clock = Clock()
    provider = TracerProvider(sampler=PerSecond(8, clock), shutdown_on_exit=False)
    assert kept(provider, "POST", 1000) == 8
    found: Counter[str] = Counter()
    for _ in range(100):
        clock.now += 0.125
        found["flood"] += kept(provider, "POST", 50)
        found["calm"] += kept(provider, "work train", 1)
    assert found == {"flood": 100, "calm": 100}
    clock.now += 3600
    assert kept(provider, "POST", 1000) == 8


def test_a_rare_trace_is_kept_at_a_rate_below_one() -> None:
    clock = Clock()
    provider = TracerProvider(sampler=PerSecond(0.5, clock), shutdown_on_exit=False)
    assert kept(provider, "POST", 3) == 1
    clock.now += 1.9
    assert kept(provider, "POST", 1) == 0
    clock.now += 0.2
    assert kept(provider, "POST", 1) == 1


def test_names_without_end_share_one_allowance() -> None:
    sampler = PerSecond(1, Clock())
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    assert sum(kept(provider, f"job {number}", 1) for number in range(10_000)) <= 201


def test_what_follows_from_a_kept_trace_is_kept_and_from_a_dropped_one_is_not() -> None:
    provider = TracerProvider(sampler=whole_traces(1.0), shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("POST"):
        assert kept(provider, "handle", 50) == 50
    with tracer.start_as_current_span("POST"):
        assert kept(provider, "handle", 50) == 0


def test_the_standard_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert kept(tracer_provider("test", 2), "POST", 5) == 2
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert kept(tracer_provider("test", 2), "POST", 5) == 5
