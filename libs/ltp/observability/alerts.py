"""The alert rules of Prometheus, each with the runbook that says what to do; `deploy/prometheus/rules.yml` is made of them.

Thresholds are those of a platform that people wait for; change them here and run `ltp grafana write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ltp.contracts.event import SERVICES

RUNBOOKS = "https://github.com/ltp/ltp/blob/main/docs/runbooks"
_SERVICES = "|".join(SERVICES)


@dataclass(frozen=True)
class Alert:
    """A rule: `expression` is true for `lasting` before it fires. `runbook` is a page of docs/runbooks."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    told: str
    runbook: str


ALERTS = (
    Alert(
        "LtpServiceDown", f'up{{job=~"{_SERVICES}"}} == 0', "1m", "critical",
        "{{ $labels.job }} does not answer Prometheus.", "service-down",
    ),
    Alert(
        "LtpServiceNotReady", "ltp_service_ready == 0", "2m", "critical",
        "{{ $labels.service }} runs, but is not connected to its servers.", "service-down",
    ),
    Alert(
        "LtpDatabaseDown", "ltp_database_up == 0", "2m", "critical",
        "{{ $labels.service }} cannot read its tables.", "service-down",
    ),
    Alert(
        "LtpOutboxStuck", "ltp_outbox_age_seconds > 60", "1m", "critical",
        "Events of {{ $labels.service }} have waited {{ $value | humanizeDuration }} to be published.", "outbox-stuck",
    ),
    Alert(
        "LtpEventsBehind", "ltp_event_consumer_pending > 1000", "10m", "warning",
        "{{ $labels.consumer }} is {{ $value }} messages behind.", "outbox-stuck",
    ),
    Alert(
        "LtpDeadLetters", 'increase(ltp_event_handler_failures_total{outcome="dead"}[15m]) > 0', "0m", "warning",
        "{{ $labels.service }} set a message of {{ $labels.subject }} aside.", "dead-letters",
    ),
    Alert(
        "LtpQueueAge", 'ltp_queue_oldest_wait_seconds{queue!="training"} > 900', "5m", "warning",
        "Work in {{ $labels.queue }} has waited {{ $value | humanizeDuration }}.", "queue-age",
    ),
    Alert(
        "LtpTrainingQueueAge", 'ltp_queue_oldest_wait_seconds{queue="training"} > 86400', "5m", "warning",
        "A job has waited {{ $value | humanizeDuration }} for devices.", "queue-age",
    ),
    Alert(
        "LtpDeadWork", "increase(ltp_queue_dead_items[15m]) > 0", "0m", "warning",
        "Work in {{ $labels.queue }} failed for good.", "dead-letters",
    ),
    Alert(
        "LtpJobStalled", "ltp_training_runs_stalled > 0", "1m", "critical",
        "{{ $value }} running attempts have had no news for ten of their steps.", "job-stalled",
    ),
    Alert(
        "LtpTrainingAlarm", 'ltp_training_alarms{severity="critical"} > 0', "1m", "critical",
        "{{ $value }} critical alarms of running attempts are open.", "training-alarm",
    ),
    Alert(
        "LtpTrainingNotFinite", "increase(ltp_training_nonfinite_steps_total[10m]) > 0", "0m", "warning",
        "A {{ $labels.algorithm }} run logs losses or gradients that are no numbers.", "training-not-finite",
    ),
    Alert(
        "LtpHostSilent", 'ltp_hosts{state="silent"} > 0', "5m", "warning",
        "{{ $value }} hosts were not heard of.", "host-silent",
    ),
    Alert(
        "LtpDiskFillsUp",
        "predict_linear(ltp_data_disk_free_bytes[6h], 86400) < 0 and ltp_data_disk_free_bytes / ltp_data_disk_size_bytes < 0.4",
        "15m", "warning", "The disk of the data directory will be full within a day.", "disk-fills-up",
    ),
    Alert(
        "LtpDiskFull", "ltp_data_disk_free_bytes / ltp_data_disk_size_bytes < 0.05", "5m", "critical",
        "The disk of the data directory has {{ $value | humanizePercentage }} left.", "disk-fills-up",
    ),
    Alert(
        "LtpPlannerDrift", "ltp_planner_drifted > 0", "0m", "warning",
        "Predictions of {{ $labels.quantity }} for {{ $labels.group }} have left the measurements.", "planner-drift",
    ),
    Alert(
        "LtpWebhooksFailing", 'ltp_webhooks{state="failing"} > 0', "15m", "warning",
        "{{ $value }} webhooks have been failing for a quarter of an hour.", "webhooks-failing",
    ),
    Alert(
        "LtpApiErrors",
        'sum(rate(ltp_http_requests_total{status=~"5.."}[5m])) / sum(rate(ltp_http_requests_total[5m])) > 0.05',
        "5m", "critical", "{{ $value | humanizePercentage }} of API requests fail.", "api-errors",
    ),
)  # fmt: skip


def rules() -> dict[str, Any]:
    """The rule file of Prometheus."""
    return {"groups": [{"name": "ltp", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.told, "runbook_url": f"{RUNBOOKS}/{alert.runbook}.md"},
    }
