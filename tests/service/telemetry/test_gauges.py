"""Every gauge that is read from tables can be read on a fresh platform, and says 0 where there is nothing, rather than nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prometheus_client import generate_latest
from sqlalchemy.ext.asyncio import create_async_engine

from ltp.telemetry import metrics
from services.evaluator import gauges as evaluator
from services.gateway import gauges as gateway
from services.planner import gauges as planner
from services.runner import gauges as runner
from services.scheduler import gauges as scheduler


async def test_an_empty_platform_says_zero(database_url: str, tmp_path: Path) -> None:
    readings = scheduler.readings(timedelta(seconds=180)) | planner.readings() | runner.readings(lambda: tmp_path)
    readings |= evaluator.readings() | gateway.readings()
    engine = create_async_engine(database_url)
    try:
        for reading in readings.values():
            async with engine.connect() as connection:
                await reading(connection)
    finally:
        await engine.dispose()
    told = generate_latest(metrics.REGISTRY).decode()
    for series in (
        'ltp_jobs{state="running"}',
        'ltp_devices_leased{kind="gpu"}',
        'ltp_hosts{state="silent"}',
        'ltp_webhooks{state="failing"}',
        'ltp_queue_oldest_wait_seconds{queue="training"}',
        "ltp_training_runs_stalled",
        'ltp_training_alarms{severity="critical"}',
    ):
        assert f"{series} 0.0" in told
