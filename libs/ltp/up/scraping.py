"""DATA/prometheus.yml: what a Prometheus of this machine needs to scrape the platform, written at each start with its ports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from ltp.observability.alerts import rules
from ltp.up.ports import LOOPBACK
from ltp.up.state import DataDir

_SCRAPE_SECONDS = 15
_RULES = "prometheus-rules.yml"


def write_scrape_config(data: DataDir, ports: Mapping[str, int]) -> None:
    """Write the configuration and, beside it, the alert rules; `prometheus --config.file DATA/prometheus.yml` uses both."""
    targets = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
    _replace(data, _RULES, yaml.safe_dump(rules(), sort_keys=False))
    config = scrape_config(targets, str(data.secret("metrics_token")), _RULES)
    _replace(data, "prometheus.yml", yaml.safe_dump(config, sort_keys=False))


def scrape_config(targets: Mapping[str, str], token_file: str, rules: str) -> dict[str, Any]:
    """Prometheus's configuration for services at `host:port`; only the gateway asks for a token."""
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [target]}]}
        | ({"authorization": {"credentials_file": token_file}} if name == "gateway" else {})
        for name, target in targets.items()
    ]
    return {
        "global": {"scrape_interval": f"{_SCRAPE_SECONDS}s", "evaluation_interval": f"{_SCRAPE_SECONDS}s"},
        "rule_files": [rules],
        "scrape_configs": jobs,
    }


def _replace(data: DataDir, name: str, text: str) -> None:
    draft = data.root / f"{name}.tmp"
    draft.write_text(text)
    os.replace(draft, data.root / name)
