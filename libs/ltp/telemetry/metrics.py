"""The registry of a process, how metrics are made, and those that every service has; `ltp.service.exposition` answers a scrape.

Names are `ltp_<noun>_<unit>[_total]` in base units, ratios 0-1. Labels are small closed sets: kinds, queues, subjects,
codes, hosts, devices; never an id or a step. Counters and histograms are counted where things happen; gauges whose truth
is in Postgres are read from there at a scrape (`services.*.gauges`), so that a restart forgets nothing. What one service
alone counts is declared there: no other then says 0 for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# When a counter was born is of no use to Prometheus and doubles the series.
disable_created_metrics()
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# From a query of a millisecond to a training step of an hour.
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SECONDS_OF_STEPS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
LONG = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)


def counter(name: str, told: str, *labels: str) -> Counter:
    """A counter of this process; its name ends `_total`."""
    return Counter(name, told, labels, registry=REGISTRY)


def gauge(name: str, told: str, *labels: str) -> Gauge:
    """A gauge, set by whoever knows."""
    return Gauge(name, told, labels, registry=REGISTRY)


def histogram(name: str, told: str, *labels: str, buckets: tuple[float, ...] = _QUICK) -> Histogram:
    """A histogram of this process, in seconds unless its name says otherwise."""
    return Histogram(name, told, labels, registry=REGISTRY, buckets=buckets)


def replace_all(which: Gauge, values: Iterable[tuple[Mapping[str, str], float]]) -> None:
    """Set a gauge's values and forget those that are not there any more. Without an await: a scrape sees all or none."""
    which.clear()
    for labels, value in values:
        which.labels(**labels).set(value)


# The service itself.
READY = gauge("ltp_service_ready", "1 when the service is ready for work and connected to the bus.", "service")
DATABASE_UP = gauge("ltp_database_up", "1 when the database answered this scrape.", "service")
READ_FAILURES = counter(
    "ltp_scrape_failures_total", "Readings that could not be made at a scrape.", "service", "reading"
)
LOOP_FAILURES = counter("ltp_loop_failures_total", "Loops of the service that failed and were run again.", "loop")

# Events: from the commit that says one to the end of what it caused.
OUTBOX_WAITING = gauge("ltp_outbox_messages", "Messages that are committed and not published yet.", "service")
OUTBOX_AGE = gauge("ltp_outbox_age_seconds", "Age of the oldest message that is not published yet.", "service")
PUBLISHED = counter("ltp_events_published_total", "Messages that the relay published.", "service")
EVENT_LAG = histogram(
    "ltp_event_lag_seconds",
    "From the saying of an event to the start of its handler.",
    "service",
    "subject",
    buckets=LONG,
)
HANDLING = histogram("ltp_event_handling_duration_seconds", "Duration of handlers.", "service", "subject")
HANDLER_FAILURES = counter(
    "ltp_event_handler_failures_total", "Handlers that failed: tried again, or dead.", "service", "subject", "outcome"
)
CONSUMER_PENDING = gauge(
    "ltp_event_consumer_pending", "Messages of the stream that a consumer has not been given.", "service", "consumer"
)

# Work: the queues.
DISPATCH = histogram(
    "ltp_work_dispatch_seconds", "From when work was due to when a worker took it.", "kind", buckets=LONG
)
WORK_DURATION = histogram("ltp_work_duration_seconds", "Duration of work.", "kind", "outcome", buckets=LONG)
WORK_LEASES_LOST = counter("ltp_work_leases_lost_total", "Leases on work that ran out under a living worker.", "kind")
WORK_TAKEN_OVER = counter("ltp_work_taken_over_total", "Work taken over from a worker that fell silent.", "kind")
