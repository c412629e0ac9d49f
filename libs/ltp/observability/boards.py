"""The dashboards: what is asked of Prometheus and Postgres, and how it is shown. `ltp grafana write` makes deploy/grafana of them."""

from __future__ import annotations

from ltp.observability.panels import Board, Variable, lines, number, prom, rows_of, sql

_JOB = Variable("job", "Job", "SELECT job_id::text FROM gateway.jobs ORDER BY submitted_at DESC LIMIT 200")


def _curve(pattern: str) -> str:
    """The values of all metrics whose key matches, over time, of the job chosen above."""
    return (
        "SELECT s.at AS time, m.key AS metric, m.value::float8 AS value FROM gateway.steps s, jsonb_each_text(s.metrics) m "
        f"WHERE s.job_id::text = '$job' AND m.key ~ '{pattern}' AND $__timeFilter(s.at) ORDER BY s.seq"
    )


def _p(quantile: float, metric: str, by: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le, {by}) (rate({metric}_bucket[5m])))"


OVERVIEW = Board(
    "ltp-overview", "LTP / Platform", "Is everything up, and does work get done?",
    (
        ("Now", (
            number("Services up", prom('sum(up{job=~"gateway|planner|scheduler|runner|surgery|dataset|evaluator"})')),
            number("Jobs running", prom('sum(ltp_jobs{state="running"})')),
            number("Jobs waiting", prom('sum(ltp_jobs{state=~"submitted|planned|queued"})')),
            number("Dead letters", prom("sum(ltp_dead_letters)")),
            number("Stalled runs", prom("sum(ltp_training_runs_stalled)")),
            number("Alarms of training", prom("sum(ltp_training_alarms)")),
            number("Oldest outbox", prom("max(ltp_outbox_age_seconds)"), unit="s"),
        )),
        ("Flow", (
            lines("Jobs by state", prom("sum by (state) (ltp_jobs)", "{{state}}"), width=12),
            lines("Events published", prom("sum by (service) (rate(ltp_events_published_total[5m]))", "{{service}}"), width=12),
            lines("Dispatch latency p95", prom(_p(0.95, "ltp_work_dispatch_seconds", "kind"), "{{kind}}"), unit="s"),
            lines("Event lag p95", prom(_p(0.95, "ltp_event_lag_seconds", "service"), "{{service}}"), unit="s"),
            lines("Memory of services", prom("process_resident_memory_bytes", "{{job}}"), unit="bytes"),
        )),
        ("Training", (
            lines("Steps", prom("sum by (algorithm) (rate(ltp_training_steps_total[5m]))", "{{algorithm}}")),
            lines("Tokens", prom("sum by (algorithm) (rate(ltp_training_tokens_total[5m]))", "{{algorithm}}"), unit="locale"),
            lines("Open alarms", prom("ltp_training_alarms", "{{severity}}")),
            lines("Failed attempts by cause", prom("ltp_attempts_failed", "{{cause}}")),
        )),
    ),
)  # fmt: skip

QUEUES = Board(
    "ltp-queues", "LTP / Queues", "What waits, for how long, and who takes it.",
    (
        ("Queues", (
            lines("Depth", prom('ltp_queue_items{state="waiting"}', "{{queue}}"), width=12),
            lines("Oldest waiting", prom("ltp_queue_oldest_wait_seconds", "{{queue}}"), unit="s", width=12),
            lines("Running", prom('ltp_queue_items{state="running"}', "{{queue}}")),
            lines("Retrying", prom('ltp_queue_items{state="retrying"}', "{{queue}}")),
            lines("Dead", prom("ltp_queue_dead_items", "{{queue}}")),
        )),
        ("Workers", (
            lines("Dispatch p50", prom(_p(0.5, "ltp_work_dispatch_seconds", "kind"), "{{kind}}"), unit="s"),
            lines("Dispatch p99", prom(_p(0.99, "ltp_work_dispatch_seconds", "kind"), "{{kind}}"), unit="s"),
            lines("Duration p95", prom(_p(0.95, "ltp_work_duration_seconds", "kind"), "{{kind}}"), unit="s"),
            lines("Done", prom("sum by (kind, outcome) (rate(ltp_work_duration_seconds_count[5m]))", "{{kind}} {{outcome}}")),
            lines("Leases lost", prom("sum by (kind) (rate(ltp_work_leases_lost_total[5m])) or vector(0)", "{{kind}}")),
            lines("Taken over", prom("sum by (kind) (rate(ltp_work_taken_over_total[5m])) or vector(0)", "{{kind}}")),
        )),
        ("Devices", (
            lines("Devices", prom("ltp_devices", "{{kind}}"), prom("ltp_devices_leased", "{{kind}} leased"), width=12),
            lines("Lease churn", prom("rate(ltp_device_leases_granted[5m])", "granted"), width=12),
        )),
    ),
)  # fmt: skip

JOB = Board(
    "ltp-job", "LTP / Job", "One job: its curves, and what it took.",
    (
        ("Curves", (
            lines("Loss", sql(_curve("loss$")), width=12),
            lines("Reward", sql(_curve("^critic/(rewards|score)/")), width=12),
            lines("Gradient norm", sql(_curve("grad_norm$"))),
            lines("KL and entropy", sql(_curve("(kl|entropy)"))),
            lines("Learning rate", sql(_curve("(^|/)lr$"))),
            lines("Response length", sql(_curve("^response_length/"))),
            lines("Throughput", sql(_curve("(throughput|global_tokens|total_num_tokens)$"))),
            lines("Time of a step", sql(_curve("^timing_s/")), unit="s"),
        )),
        ("Memory", (
            lines("Allocated", sql(_curve("^.*perf/max_memory_(allocated|reserved)_gb$")), unit="decgbytes", width=12),
            rows_of("Predicted against measured", sql(
                'SELECT quantity, "group", predicted, measured, measured / nullif(predicted, 0) - 1 AS error, measured_at '
                "FROM planner.measurements WHERE job_id::text = '$job' ORDER BY measured_at DESC"), width=12),
        )),
        ("Story", (
            rows_of("Attempts", sql(
                "SELECT number, state, started_at, ended_at, last_step, problem->>'code' AS cause, placement->>'host_id' AS host "
                "FROM runner.attempts WHERE job_id::text = '$job' ORDER BY number"), width=12),
            rows_of("Checkpoints", sql(
                "SELECT c.step, c.size_bytes, c.written_at, c.path FROM runner.checkpoints c JOIN runner.attempts a "
                "USING (attempt_id) WHERE a.job_id::text = '$job' ORDER BY c.step"), width=12),
        )),
    ),
    (_JOB,),
)  # fmt: skip

HOSTS = Board(
    "ltp-hosts", "LTP / Hosts", "Hosts and their GPUs, as the launchers on them sample.",
    (
        ("Hosts", (
            lines("Hosts by state", prom("ltp_hosts", "{{state}}")),
            lines("Memory left", prom("ltp_host_memory_available_bytes", "{{host}}"), unit="bytes"),
            lines("Memory of training", prom("ltp_training_memory_bytes", "{{host}}"), unit="bytes"),
            lines("Free disk", prom("ltp_data_disk_free_bytes", "free"), unit="bytes"),
            lines("Disk in a day", prom("predict_linear(ltp_data_disk_free_bytes[6h], 86400)", "free"), unit="bytes"),
            lines("Out of sight", prom("rate(ltp_attempts_out_of_sight_total[5m])", "looks")),
        )),
        ("GPUs", (
            lines("Utilisation", prom("ltp_gpu_utilization_ratio", "{{host}} {{gpu}}"), unit="percentunit"),
            lines("Memory", prom("ltp_gpu_memory_used_bytes", "{{host}} {{gpu}}"), unit="bytes"),
            lines("Power", prom("ltp_gpu_power_watts", "{{host}} {{gpu}}"), unit="watt"),
        )),
    ),
)  # fmt: skip

PLANNER = Board(
    "ltp-planner", "LTP / Planner", "How well memory and time are predicted.",
    (
        ("Accuracy", (
            lines("Median error", prom("ltp_planner_median_error_ratio", "{{quantity}} {{group}}"), unit="percentunit", width=12),
            lines("Error p95", prom(_p(0.95, "ltp_planner_prediction_error_ratio", "quantity"), "{{quantity}}"), unit="percentunit", width=12),
            lines("Drift", prom("ltp_planner_drifted", "{{quantity}} {{group}}"), width=12),
            lines("Plans", prom("ltp_plans", "{{outcome}}"), width=12),
        )),
        ("Evidence", (
            rows_of("Newest measurements", sql(
                'SELECT measured_at, quantity, "group", predicted, measured, measured / nullif(predicted, 0) - 1 AS error '
                "FROM planner.measurements ORDER BY measured_at DESC LIMIT 200")),
        )),
    ),
)  # fmt: skip

EVENTS = Board(
    "ltp-events", "LTP / Events and delivery", "From the commit that says an event to the end of what it caused.",
    (
        ("Outbox", (
            lines("Waiting", prom("ltp_outbox_messages", "{{service}}")),
            lines("Oldest", prom("ltp_outbox_age_seconds", "{{service}}"), unit="s"),
            lines("Published", prom("rate(ltp_events_published_total[5m])", "{{service}}")),
        )),
        ("Handlers", (
            lines("Lag p95", prom(_p(0.95, "ltp_event_lag_seconds", "service, subject"), "{{service}} {{subject}}"), unit="s"),
            lines("Duration p95", prom(_p(0.95, "ltp_event_handling_duration_seconds", "service, subject"), "{{service}} {{subject}}"), unit="s"),
            lines("Failures", prom("sum by (service, outcome) (rate(ltp_event_handler_failures_total[5m])) or vector(0)", "{{service}} {{outcome}}")),
            lines("Behind", prom("ltp_event_consumer_pending", "{{consumer}}"), width=12),
            lines("Dead letters", prom("ltp_dead_letters", "set aside"), width=12),
        )),
        ("Webhooks", (
            lines("Webhooks", prom("ltp_webhooks", "{{state}}")),
            lines("Deliveries", prom("ltp_webhook_deliveries", "{{state}}")),
            lines("Oldest pending", prom("ltp_webhook_oldest_pending_seconds", "age"), unit="s"),
        )),
        ("Timeline", (
            rows_of("Newest events", sql(
                "SELECT at, subject, about, actor, project FROM gateway.events WHERE $__timeFilter(at) ORDER BY seq DESC LIMIT 200")),
        )),
    ),
)  # fmt: skip

API = Board(
    "ltp-api", "LTP / API", "Rate, errors, duration of the gateway.",
    (
        ("Requests", (
            lines("Rate", prom("sum by (route) (rate(ltp_http_requests_total[5m]))", "{{route}}"), unit="reqps"),
            lines("Errors", prom('sum by (route, status) (rate(ltp_http_requests_total{status=~"[45].."}[5m]))', "{{status}} {{route}}"), unit="reqps"),
            lines("Duration p95", prom(_p(0.95, "ltp_http_request_duration_seconds", "route"), "{{route}}"), unit="s"),
            lines("Open", prom("ltp_http_requests_in_progress", "requests and streams"), width=12),
            lines("Availability", prom('1 - sum(rate(ltp_http_requests_total{status=~"5.."}[1h])) / sum(rate(ltp_http_requests_total[1h])) or vector(1)', "share"), unit="percentunit", width=12),
        )),
    ),
)  # fmt: skip

INFERENCE = Board(
    "ltp-inference", "LTP / Evaluation and rollout", "Our evaluator, and vLLM where verl's rollout or a server of it is scraped.",
    (
        ("Evaluator", (
            lines("Answers", prom("sum by (outcome) (rate(ltp_evaluation_answers_total[5m]))", "{{outcome}}")),
            lines("Tokens", prom("sum by (kind) (rate(ltp_evaluation_tokens_total[5m]))", "{{kind}}")),
            lines("Latency p95", prom("histogram_quantile(0.95, sum by (le) (rate(ltp_evaluation_answer_duration_seconds_bucket[5m])))", "p95"), unit="s"),
            lines("Evaluations", prom("ltp_evaluations", "{{state}}"), width=24),
        )),
        ("vLLM", (
            lines("Requests running", prom("sum by (instance) (vllm:num_requests_running)", "{{instance}}")),
            lines("KV cache", prom("vllm:kv_cache_usage_perc", "{{instance}}"), unit="percentunit"),
            lines("Generated tokens", prom("sum by (instance) (rate(vllm:generation_tokens_total[5m]))", "{{instance}}")),
        )),
    ),
)  # fmt: skip

BOARDS = (OVERVIEW, QUEUES, JOB, HOSTS, PLANNER, EVENTS, API, INFERENCE)
# Told by others: vLLM, where a rollout is scraped. What of ours has no value before somebody has a GPU, or a webhook.
FOREIGN = ("vllm:",)
