"""Drives `ltp up` in tests: the real command and servers, with small stand-ins for the seven services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

from ltp.up import procfs
from ltp.up.record import ProcessRecord, RunRecord
from ltp.up.services import SERVICES
from ltp.up.state import DataDir

CHECKOUT = Path(__file__).parents[3]
APP = """
import typer
from ltp.cli import up
app = typer.Typer()
for command in (up.up, up.down, up.status, up.doctor):
    app.command()(command)
app()
"""
# An ordinary user who may read an interpreter that lies under /root, and nothing more.
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--securebits=+no_setuid_fixup"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
)

T = TypeVar("T")

FAKE_SERVICE = """
import http.server, json, os, sys
for module in os.environ.get("FAKE_IMPORTS", "").split():
    __import__(module)
name = sys.argv[0].rpartition("/")[2].removesuffix(".py")
if os.environ.get("FAKE_CRASH") == name:
    sys.exit(f"{name} has lost its marbles")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({k: v for k, v in os.environ.items() if k.startswith("LTP_")}).encode())
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["LTP_HEALTH_PORT"])), Handler).serve_forever()
"""
FAKE_MIGRATION = """
import os, sys
sys.exit(os.environ.get("FAKE_MIGRATION_ERROR", 0))
"""
# Every interpreter imports it first, the detached supervisor's too: `ltp.store` cannot be hidden like `services`.
SITE_CUSTOMIZE = """
import dataclasses
from ltp.up import services
real = services.platform_commands()
services.platform_commands = lambda: dataclasses.replace(real, migration=services.python_module("services.migrate"))
"""


def write_fake_services(place: Path) -> None:
    """Make a `services` package that hides the real one, with a migration of its own."""
    package = place / "services"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in SERVICES:
        (package / f"{name}.py").write_text(FAKE_SERVICE)
    (package / "migrate.py").write_text(FAKE_MIGRATION)
    (place / "sitecustomize.py").write_text(SITE_CUSTOMIZE)


def eventually(look: Callable[[], T | None], seconds: float = 30.0) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return seen


class Platform:
    """One data directory and the commands on it."""

    def __init__(
        self, data: Path, fakes: Path, user: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.data = DataDir(data)
        self._user = user
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LTP_")}
        path = f"{fakes}:{CHECKOUT / 'libs'}:{CHECKOUT}"
        self._environment = inherited | {"PYTHONPATH": path, "COLUMNS": "200", **(environment or {})}

    def ltp(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._argv(*words), env=self._environment | environment, capture_output=True, text=True, timeout=120
        )

    def up_in_foreground(self) -> subprocess.Popen[str]:
        """Start `ltp up` as a terminal would, and wait until all is ready."""
        process = subprocess.Popen(self._argv("up"), env=self._environment, stdout=subprocess.PIPE, text=True)
        eventually(lambda: (record := self.data.running()) and record.ready_at)
        return process

    def up(self, *words: str) -> RunRecord:
        """Start in the background."""
        done = self.ltp("up", "-d", *words)
        assert done.returncode == 0, done.stderr
        return self.record()

    def record(self) -> RunRecord:
        """Return what runs now."""
        record = self.data.running()
        assert record is not None
        return record

    def process(self, name: str) -> ProcessRecord:
        """Return what is recorded of one process."""
        return next(entry for entry in self.record().processes if entry.name == name)

    def service_environment(self, name: str) -> Mapping[str, str]:
        """Ask a stand-in what it was told."""
        with urlopen(self.process(name).probe, timeout=5) as answer:
            return json.load(answer)

    def status(self) -> dict[str, Any]:
        """Return `ltp status --json`."""
        return json.loads(self.ltp("status", "--json").stdout)

    def database(self) -> str:
        """Return the URL as asyncpg wants it."""
        return self.service_environment("planner")["LTP_DATABASE_URL"].replace("+asyncpg", "")

    def survivors(self) -> list[str]:
        """Name every process that has to do with the data directory."""
        root = str(self.data.root)
        found = [process for process in procfs.processes() if process.pid != os.getpid()]
        return [
            f"{process.name} {process.pid}"
            for process in found
            if any(root in word for word in procfs.command_line(process.pid))
            or (procfs.working_directory(process.pid) or "").startswith(root)
            or procfs.has_environment(process.pid, f"LTP_DATA_DIR={root}")
        ]

    def kill_supervisor(self) -> None:
        """Leave it no chance to tidy up."""
        os.kill(self.record().pid, signal.SIGKILL)

    def _argv(self, *words: str) -> list[str]:
        return [*self._user, sys.executable, "-c", APP, *words, "--data-dir", str(self.data.root)]
