"""`make compose-check`: what can be known of the compose files without an engine, by the real Compose, hadolint and compose-lint.

Run with the secrets that `ltp init` draws, in a folder of its own; the repository's are neither needed nor touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ltp.backup.compose import VARIABLES, make_secrets
from ltp.contracts.event import SERVICES

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ("--profile", "gpu", "--profile", "ui")


def main(tools: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ("docker-compose.yml", "deploy"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, here / name)
        refused = run([str(tools / "docker-compose"), "config", "--quiet"], here)
        # By what it says: the wheel's wrapper ends with 0 whatever Compose ended with.
        require("missing a value: run ltp init" in refused.stderr, "it starts without secrets")
        made = make_secrets(here, dry_run=False)
        require(make_secrets(here, dry_run=False) == [], "a second `ltp init` made something")
        checked = run([str(tools / "docker-compose"), *PROFILES, "config", "--format", "json"], here)
        require(checked.stdout.startswith("{"), checked.stderr)
        check(json.loads(checked.stdout))
    for command in (
        [str(tools / "hadolint"), "deploy/Dockerfile"],
        [str(tools / "compose-lint"), "--fail-on", "high", "docker-compose.yml"],
    ):
        done = run(command, ROOT)
        require(done.returncode == 0, done.stdout + done.stderr)
    print(f"docker-compose.yml and deploy/Dockerfile are sound; {len(made)} secrets are drawn by `ltp init`")
    return 0


def check(config: dict[str, Any]) -> None:
    """What the linters do not know."""
    services = config["services"]
    wanted = {
        *SERVICES,
        "nats",
        "postgres",
        "milvus",
        "etcd",
        "minio",
        "otel-collector",
        "prometheus",
        "tempo",
        "grafana",
    }
    require(wanted <= set(services), f"missing: {sorted(wanted - set(services))}")
    for name, service in services.items():
        image = service["image"]
        require(":" in image and not image.endswith(":latest"), f"{name}: {image} is not pinned")
        require(list(service["networks"]) == ["ltp"], f"{name} is not in the one network")
        limited = service["deploy"]["resources"]
        require("limits" in limited or "reservations" in limited, f"{name} has no limits")
        for port in service.get("ports", []):
            require(port.get("host_ip") == "127.0.0.1", f"{name} listens beyond this machine")
    for name in ("runner", "dataset", "surgery", "evaluator"):
        extras = services[name]["build"]["args"].get("EXTRAS", "").split(",")
        require("training" in extras, f"{name} asks verl, and its image has none")
    for name in ("runner", "gpu-runner"):
        require("LTP_RUNNER_HOST_NAME" in services[name]["environment"], f"each new container of {name} is a new host")
    for name in (*SERVICES, "gpu-runner"):
        user = f"nats://{'runner' if name == 'gpu-runner' else name}:"
        require(
            services[name]["environment"]["LTP_NATS_URL"].startswith(user), f"{name} is not let in to NATS as itself"
        )
    require(services["nats"]["command"] == ["--config", "/etc/nats/nats.conf"], "NATS has no accounts")
    for name in ("prepare", "gateway", "nats"):
        mounted = {volume["source"] for volume in services[name]["volumes"]}
        require("bus" in mounted, f"{name} has not the users of NATS")
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / ".env.example").read_text()
    for variable in VARIABLES:
        require(f"{variable}:?" in text, f"{variable} has a default")
        require(f"{variable}=\n" in text, f"{variable} has a value in .env.example")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LTP_")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def require(good: bool, otherwise: str) -> None:
    if not good:
        raise SystemExit(f"compose-check: {otherwise}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
