"""What an operator sees of a job: one trace of all it went through, the metrics of every service, and logs without secrets."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ltp.contracts.event import SERVICES
from ltp.observability.boards import BOARDS
from tests.conftest import free_port
from tests.e2e.platform import RECIPE, Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def job(platform: Platform, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that was trained, evaluated and compared."""
    recipe = tmp_path_factory.mktemp("traced") / "traced.yaml"
    recipe.write_text(RECIPE.format(model=model, steps=2, save_every=2).replace("name: tiny", "name: traced"))
    job_id = str(platform.json("job", "submit", str(recipe))["job_id"])
    eventually(lambda: platform.ltp("compare", job_id, check=False).returncode == 0, seconds=240)
    return job_id


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}


def trace_of(platform: Platform, job: str) -> list[dict[str, Any]]:
    """The spans of the trace that a job belongs to, once its end was received."""

    def found() -> list[dict[str, Any]]:
        spans = platform.spans()
        whole = [s for s in spans if s["name"] == "job" and attributes(s)["cicd.pipeline.run.id"] == job]
        trace = [s for s in spans if whole and s["traceId"] == whole[0]["traceId"]]
        names = {s["name"] for s in trace}
        return trace if {"publish ltp.comparison.v1.completed", "training process"} <= names else []

    trace: list[dict[str, Any]] = eventually(found, seconds=30)
    return trace


def test_a_job_is_one_trace_from_the_request_to_the_training_process_and_the_verdict(
    platform: Platform, job: str
) -> None:
    trace = trace_of(platform, job)
    names = Counter(span["name"] for span in trace)
    once = ["POST /api/v1/jobs", "publish ltp.job.v1.submitted", "ltp.job.v1.planned process", "plan", "wait train"]
    once += ["work train", "attempt", "checkpoint", "training process", "work export", "job"]
    assert {name: names[name] for name in once} == dict.fromkeys(once, 1)
    assert names["evaluation"] == names["wait evaluate"] == 2
    assert names["INSERT scheduler.jobs"] == 1
    by_id = {span["spanId"]: span for span in trace}
    parents = {span["name"]: by_id.get(span.get("parentSpanId", "")) for span in trace}
    assert parents["POST /api/v1/jobs"] is None
    assert not [s["name"] for s in trace if s.get("parentSpanId") and s["parentSpanId"] not in by_id]
    for name, parent in {"training process": "attempt", "checkpoint": "attempt", "attempt": "work train"}.items():
        above = parents[name]
        assert above is not None
        assert above["name"] == parent


def test_its_spans_say_what_they_are_by_the_conventions(platform: Platform, job: str) -> None:
    spans = {span["name"]: attributes(span) for span in trace_of(platform, job)}
    assert spans["job"]["cicd.pipeline.name"] == "traced"
    assert spans["job"]["cicd.pipeline.result"] == "success"
    assert spans["attempt"]["cicd.pipeline.run.id"] == job
    assert spans["attempt"]["hw.type"] == "cpu"
    assert spans["publish ltp.job.v1.submitted"]["messaging.destination.name"] == "ltp.job.v1.submitted"
    assert spans["POST /api/v1/jobs"]["http.response.status_code"] in {"201", "202"}
    assert spans["INSERT scheduler.jobs"]["db.system.name"] == "postgresql"


def test_log_lines_name_their_trace_event_and_job(platform: Platform, job: str) -> None:
    trace_id = trace_of(platform, job)[0]["traceId"]
    lines = [
        json.loads(line)
        for log in (platform.data / "logs").glob("*.log")
        for line in log.read_text(errors="replace").splitlines()
        if line.startswith("{") and '"trace_id"' in line
    ]
    for line in lines:
        assert len(line["trace_id"]) == 32
        assert len(line["span_id"]) == 16
    # A job that goes well says nothing in the logs; what is said of this one carries its trace.
    assert all(line.get("job_id") == job for line in lines if line["trace_id"] == trace_id and "job_id" in line)


def scraped(platform: Platform) -> dict[str, dict[str, list[Any]]]:
    """The samples of every service by name, as its /metrics tells them now."""
    status = platform.json("status")
    token = (platform.data / "secrets" / "metrics_token").read_text().strip()
    found: dict[str, dict[str, list[Any]]] = {}
    for process in status["processes"]:
        if process["name"] in SERVICES:
            headers = {"Authorization": f"Bearer {token}"}
            answer = httpx.get(f"http://127.0.0.1:{process['port']}/metrics", headers=headers, timeout=30)
            assert answer.status_code == 200, (process["name"], answer.text)
            samples = [s for family in text_string_to_metric_families(answer.text) for s in family.samples]
            found[process["name"]] = {}
            for sample in samples:
                found[process["name"]].setdefault(sample.name, []).append(sample)
    assert set(found) == set(SERVICES)
    return found


def value(samples: dict[str, list[Any]], name: str, **labels: str) -> float:
    return sum(s.value for s in samples.get(name, []) if labels.items() <= s.labels.items())


def test_every_service_tells_its_health_outbox_and_consumers(platform: Platform, job: str) -> None:
    for service, samples in scraped(platform).items():
        assert value(samples, "ltp_service_ready", service=service) == 1
        assert value(samples, "ltp_database_up", service=service) == 1
        assert samples["ltp_outbox_age_seconds"][0].value < 60
        assert samples["ltp_event_consumer_pending"]
        assert not samples.get("ltp_scrape_failures_total"), service


def test_the_metrics_of_a_job_are_where_it_was_worked_on(platform: Platform, job: str) -> None:
    found = scraped(platform)
    assert value(found["scheduler"], "ltp_jobs", state="succeeded") >= 1
    assert value(found["scheduler"], "ltp_device_leases_granted") >= 1
    assert {s.labels["queue"] for s in found["scheduler"]["ltp_queue_items"]} >= {"training", "evaluation"}
    assert value(found["runner"], "ltp_training_steps_total", algorithm="sft") >= 2
    assert value(found["runner"], "ltp_training_tokens_total", algorithm="sft") > 0
    assert value(found["runner"], "ltp_checkpoints_written_total", algorithm="sft") >= 1
    assert value(found["runner"], "ltp_attempts", state="succeeded") >= 1
    assert value(found["runner"], "ltp_work_dispatch_seconds_count", kind="train") >= 1
    assert value(found["runner"], "ltp_data_disk_free_bytes") > 0
    assert value(found["planner"], "ltp_plans", outcome="made") >= 1
    assert value(found["evaluator"], "ltp_evaluation_answers_total") >= 2
    assert value(found["evaluator"], "ltp_evaluation_tokens_total", kind="completion") > 0
    route = {"method": "POST", "route": "/api/v1/jobs"}
    assert value(found["gateway"], "ltp_http_requests_total", **route) >= 1
    assert value(found["gateway"], "ltp_event_lag_seconds_count") > 10


def test_no_label_holds_an_id_or_a_step(platform: Platform, job: str) -> None:
    allowed = {"service", "reading", "loop", "subject", "outcome", "consumer", "kind", "method", "route", "status"}
    allowed |= {"severity", "algorithm", "host", "gpu", "state", "cause", "queue", "group", "quantity", "cached", "le"}
    for samples in scraped(platform).values():
        for name, each in samples.items():
            for sample in each:
                if name.startswith("ltp_"):
                    assert set(sample.labels) <= allowed, sample
                assert job not in str(sample.labels)


def test_the_gateways_metrics_need_a_token_and_the_scrapers_token_opens_nothing_else(platform: Platform) -> None:
    url = platform.json("status")["urls"]["gateway"]
    token = (platform.data / "secrets" / "metrics_token").read_text().strip()
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{url}/api/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 401


# What a platform without GPU, webhooks, vLLM, measured runs, trouble, or a run at this moment has nothing to say of.
SILENT_HERE = (
    "ltp_host_memory_available_bytes",
    "ltp_training_memory_bytes",
    "ltp_gpu_",
    "ltp_webhook",
    "vllm:",
    "ltp_planner_",
    "ltp_attempts_failed",
    '{status=~"[45].."}',
)


@pytest.fixture(scope="module")
def prometheus(platform: Platform, job: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's Prometheus on the configuration that `ltp up` wrote, but for how often it scrapes."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus comes with Debian's package `prometheus`")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((platform.data / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(platform.data / "prometheus-rules.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


def asked(prometheus: str, expression: str) -> list[Any]:
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=20)
    except httpx.TransportError:
        return []
    assert answer.status_code in {200, 503}, (expression, answer.text)
    return list(answer.json()["data"]["result"]) if answer.status_code == 200 else []


def test_prometheus_scrapes_every_service_and_every_expression_of_a_dashboard_has_data(
    platform: Platform, prometheus: str
) -> None:
    services = "|".join(SERVICES)
    eventually(lambda: len(asked(prometheus, f'count_over_time(up{{job=~"{services}"}}[1m]) > 4')) == len(SERVICES))
    assert {series["value"][1] for series in asked(prometheus, f'up{{job=~"{services}"}}')} == {"1"}
    # Requests in between, so that rates have something to tell.
    platform.json("job", "list")
    expressions = [expression for board in BOARDS for expression in board.expressions()]
    assert len(expressions) > 50
    empty = {e for e in expressions if not asked(prometheus, e) and not any(part in e for part in SILENT_HERE)}
    assert not empty


def test_no_alert_fires_on_a_healthy_platform(prometheus: str) -> None:
    alerts = httpx.get(f"{prometheus}/api/v1/alerts").json()["data"]["alerts"]
    assert [a["labels"]["alertname"] for a in alerts if a["state"] == "firing"] == []
