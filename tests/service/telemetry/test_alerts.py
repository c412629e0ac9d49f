"""Every alert rule fires on the series of its trouble, not before its time, and not on a healthy platform; by Prometheus's own promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltp.observability.alerts import ALERTS, rules

ROOT = Path(__file__).resolve().parents[3]
promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(promtool is None, reason="promtool comes with Debian's package `prometheus`")

# What each trouble looks like: series with a value a minute, when it fires, and what with. `+1x30`: 30 further minutes.
HEALTHY = {
    'up{job="runner"}': "1x400",
    'ltp_service_ready{service="runner"}': "1x400",
    'ltp_database_up{service="runner"}': "1x400",
    'ltp_outbox_age_seconds{service="runner"}': "0x400",
    'ltp_event_consumer_pending{service="runner",consumer="c"}': "3x400",
    'ltp_event_handler_failures_total{service="runner",subject="s",outcome="dead"}': "2x400",
    'ltp_queue_oldest_wait_seconds{queue="evaluation"}': "20x400",
    'ltp_queue_oldest_wait_seconds{queue="training"}': "3600x400",
    'ltp_queue_dead_items{queue="evaluation"}': "1x400",
    "ltp_training_runs_stalled": "0x400",
    'ltp_training_alarms{severity="critical"}': "0x400",
    'ltp_training_alarms{severity="warning"}': "2x400",
    'ltp_training_nonfinite_steps_total{algorithm="sft"}': "4x400",
    'ltp_hosts{state="silent"}': "0x400",
    "ltp_data_disk_free_bytes": "900e9-1e6x400",
    "ltp_data_disk_size_bytes": "1000e9x400",
    'ltp_planner_drifted{group="g",quantity="memory"}': "0x400",
    'ltp_webhooks{state="failing"}': "0x400",
    'ltp_http_requests_total{status="200"}': "0+100x400",
    'ltp_http_requests_total{status="500"}': "0x400",
}
# alert -> (series that differ from HEALTHY, minutes until it must not have fired, minutes when it must have)
TROUBLE: dict[str, tuple[dict[str, str], int, int]] = {
    "LtpServiceDown": ({'up{job="runner"}': "1x5 0x400"}, 5, 8),
    "LtpServiceNotReady": ({'ltp_service_ready{service="runner"}': "1x5 0x400"}, 6, 9),
    "LtpDatabaseDown": ({'ltp_database_up{service="runner"}': "1x5 0x400"}, 6, 9),
    "LtpOutboxStuck": ({'ltp_outbox_age_seconds{service="runner"}': "0+30x400"}, 2, 5),
    "LtpEventsBehind": ({'ltp_event_consumer_pending{service="runner",consumer="c"}': "5000x400"}, 8, 12),
    "LtpDeadLetters": (
        {'ltp_event_handler_failures_total{service="runner",subject="s",outcome="dead"}': "2x20 3x400"}, 19, 23
    ),
    "LtpQueueAge": ({'ltp_queue_oldest_wait_seconds{queue="evaluation"}': "0+60x400"}, 17, 23),
    "LtpTrainingQueueAge": ({'ltp_queue_oldest_wait_seconds{queue="training"}': "90000x400"}, 3, 7),
    "LtpDeadWork": ({'ltp_queue_dead_items{queue="evaluation"}': "1x20 2x400"}, 19, 23),
    "LtpJobStalled": ({"ltp_training_runs_stalled": "0x10 1x400"}, 10, 13),
    "LtpTrainingAlarm": ({'ltp_training_alarms{severity="critical"}': "0x10 1x400"}, 10, 13),
    "LtpTrainingNotFinite": ({'ltp_training_nonfinite_steps_total{algorithm="sft"}': "4x20 5x400"}, 19, 23),
    "LtpHostSilent": ({'ltp_hosts{state="silent"}': "0x10 1x400"}, 13, 18),
    # 0.3 TB left, and a gigabyte goes each minute: full in five hours.
    "LtpDiskFillsUp": ({"ltp_data_disk_free_bytes": "300e9-1e9x200"}, 10, 60),
    "LtpDiskFull": ({"ltp_data_disk_free_bytes": "40e9x400"}, 3, 7),
    "LtpPlannerDrift": ({'ltp_planner_drifted{group="g",quantity="memory"}': "0x10 1x400"}, 10, 12),
    "LtpWebhooksFailing": ({'ltp_webhooks{state="failing"}': "0x10 2x400"}, 24, 28),
    "LtpApiErrors": ({'ltp_http_requests_total{status="500"}': "0+20x400"}, 3, 12),
}  # fmt: skip


def test_every_rule_has_a_trouble_and_a_runbook() -> None:
    assert set(TROUBLE) == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        page = ROOT / "docs" / "runbooks" / f"{alert.runbook}.md"
        assert alert.name in page.read_text(), page


def firing(alert: str, fires: bool) -> list[dict[str, Any]]:
    """What promtool is to find: that something fires or nothing does, whatever its labels (`count` loses them)."""
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return [{"expr": expression, "eval_time": "", "exp_samples": [{"labels": "{}", "value": 1 if fires else 0}]}]


def case(name: str, changed: dict[str, str], checks: list[tuple[str, int, bool]]) -> dict[str, Any]:
    series = [{"series": key, "values": value} for key, value in (HEALTHY | changed).items()]
    tests = [{**firing(alert, fires)[0], "eval_time": f"{at}m"} for alert, at, fires in checks]
    return {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": tests}


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules()))
    healthy = [(alert.name, at, False) for alert in ALERTS for at in (15, 120, 390)]
    cases = [case("healthy", {}, healthy)]
    for name, (changed, not_yet, by_then) in TROUBLE.items():
        cases.append(case(name, changed, [(name, not_yet, False), (name, by_then, True)]))
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases}))
    assert promtool is not None
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
