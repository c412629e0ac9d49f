"""The files under deploy/ that are made of code: dashboards, provisioning of Grafana, rules of Prometheus."""

from __future__ import annotations

import json
from typing import Any

import yaml

from ltp.contracts.event import SERVICES
from ltp.observability.alerts import rules
from ltp.observability.boards import BOARDS
from ltp.observability.panels import POSTGRES, PROMETHEUS, TEMPO, built

_MADE = "# Made by `ltp grafana write`; change libs/ltp/observability instead.\n"
FOLDER = "LTP"


def generated() -> dict[str, str]:
    """Every file by its path from the root of the repository."""
    found = {f"deploy/grafana/dashboards/{board.uid}.json": _json(built(board)) for board in BOARDS}
    found["deploy/grafana/provisioning/datasources/ltp.yml"] = _yaml(
        {"apiVersion": 1, "datasources": [_provisioned(source) for source in sources()]}
    )
    options = {"path": "/etc/grafana/dashboards"}
    provider = {"name": "ltp", "folder": FOLDER, "folderUid": "ltp", "type": "file", "options": options}
    found["deploy/grafana/provisioning/dashboards/ltp.yml"] = _yaml({"apiVersion": 1, "providers": [provider]})
    found["deploy/prometheus/rules.yml"] = _yaml(rules())
    found["deploy/prometheus/prometheus.yml"] = _yaml(_scrapes())
    return found


def sources(
    prometheus: str = "http://prometheus:9090",
    postgres: str = "postgres:5432",
    tempo: str | None = "http://tempo:3200",
    user: str = "grafana",
) -> list[dict[str, Any]]:
    """The data sources, with the addresses they have under compose. The password of Postgres is not in it."""
    found: list[dict[str, Any]] = [
        {"name": "LTP Prometheus", "uid": PROMETHEUS, "type": "prometheus", "access": "proxy", "url": prometheus,
         "isDefault": True, "jsonData": {"timeInterval": "15s"}},
        {"name": "LTP Postgres", "uid": POSTGRES, "type": "grafana-postgresql-datasource", "access": "proxy",
         "url": postgres, "user": user,
         "jsonData": {"database": "ltp", "sslmode": "disable", "postgresVersion": 1500}},
    ]  # fmt: skip
    if tempo is not None:
        found.append({"name": "LTP Tempo", "uid": TEMPO, "type": "tempo", "access": "proxy", "url": tempo})
    return found


def _provisioned(source: dict[str, Any]) -> dict[str, Any]:
    if source["uid"] == POSTGRES:
        return source | {"secureJsonData": {"password": "$LTP_GRAFANA_DB_PASSWORD"}}
    return source


def _scrapes() -> dict[str, Any]:
    jobs: list[dict[str, Any]] = []
    for name in SERVICES:
        port, more = 8701, {}
        if name == "gateway":
            port, more = 8700, {"authorization": {"credentials_file": "/run/secrets/metrics_token"}}
        jobs.append({"job_name": name, "static_configs": [{"targets": [f"{name}:{port}"]}], **more})
    # A verl rollout or a vLLM server that is to be seen: put its address into this folder.
    rollout = {"job_name": "vllm", "file_sd_configs": [{"files": ["/etc/prometheus/targets/*.json"]}]}
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["/etc/prometheus/rules.yml"],
        "scrape_configs": [*jobs, rollout],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _yaml(value: Any) -> str:
    return _MADE + yaml.safe_dump(value, sort_keys=False, width=140)
