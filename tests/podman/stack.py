"""The stack itself: secrets by `ltp init`, services up in order, the main job through the published port, and down without a trace."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

from ltp.cli import demo
from ltp.cli.client import Gateway
from ltp.cli.output import out
from ltp.contracts import SERVICES
from ltp.contracts.recipe import ModelSource
from ltp.core.errors import LtpError
from ltp.recipe_text import parse_recipe
from tests.conftest import free_port
from tests.e2e.platform import RECIPE, write_rows
from tests.podman.engine import CheckFailedError, Engine

ROOT = Path(__file__).resolve().parents[2]
OVERRIDE = Path(__file__).with_name("compose.override.yml")
PROJECT = "ltp-check"
SERVERS = ("nats", "postgres")
# Of a job too small to learn anything.
NEEDS_A_REAL_JOB = ("an improvement beyond the confidence interval", "the loss did not fall")


class Stack:
    """One set-up of docker-compose.yml in a folder of its own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def prepare(self) -> None:
        """What an operator has: the compose file, deploy/, and what `ltp init` drew."""
        shutil.copy(ROOT / "docker-compose.yml", self.folder)
        shutil.copytree(ROOT / "deploy", self.folder / "deploy")
        shutil.copy(OVERRIDE, self.folder)
        self.engine.run(sys.executable, "-m", "ltp.cli.main", "init", self.folder)
        self.port = free_port()
        with (self.folder / ".env").open("a") as file:
            file.write(f"LTP_GATEWAY_PORT={self.port}\nLTP_NATS_PORT={free_port()}\n")

    def up(self) -> None:
        """Servers, schema, services: each waited for as docker-compose.yml says."""
        self._once("prepare")
        self._compose("up", "-d", "--no-build", *SERVERS)
        for name in SERVERS:
            eventually(lambda name=name: self._healthy(name), 120, f"{name} is not healthy")
        self._once("migrate")
        self._compose("up", "-d", "--no-build", *SERVICES)
        for name in SERVICES:
            eventually(
                lambda name=name: self._healthy(name), 300, f"{name} is not healthy", lambda n=name: self.log_of(n)
            )

    def job(self, *, real: bool) -> list[str]:
        """Send the demo's job, or one of its kind at tiny size, and follow it to its verdict; what it lacks."""
        model, rows, recipe = self._demo_input() if real else self._tiny_input()
        archive = model.with_suffix(".tar")
        self.engine.run("tar", "-C", model.parent, "-cf", archive, "--transform", f"s,^{model.name},check,", model.name)
        self.engine.podman("exec", "-i", self.name_of("runner"), "mkdir", "-p", "/data/models")
        self.engine.podman("exec", "-i", self.name_of("runner"), "tar", "-C", "/data/models", "-x", stdin=archive)
        gateway = Gateway(f"http://127.0.0.1:{self.port}", (self.folder / "secrets/token").read_text().strip())
        parsed = parse_recipe(recipe).model_copy(update={"model": ModelSource(path="/data/models/check")})
        try:
            with Progress(disable=True) as progress:
                story = demo.run(progress, gateway, parsed, rows)
        except LtpError as error:
            raise CheckFailedError(f"{error.message} {error.hint}") from error
        out.print(demo.closing_table(story))
        return [fault for fault in demo.shortcomings(story) if real or fault not in NEEDS_A_REAL_JOB]

    def complaints(self) -> list[str]:
        """Every line of a service's log that is a warning or worse, and what the servers call an error."""
        found: list[str] = []
        read = 0
        for name in ("prepare", *SERVERS, "migrate", *SERVICES):
            lines = self.log_of(name).splitlines()
            read += len(lines)
            marks = ("FATAL", "PANIC", "ERROR:", "[ERR]", "[FTL]", "[WRN]") if name in SERVERS else _WARNINGS
            found += [f"{name}: {line[:600]}" for line in lines if any(mark in line for mark in marks)]
        print(f"logs: {len(found)} complaints in {read} lines")
        return found

    def down(self) -> None:
        """Take it down with its volumes."""
        self._compose("down", "--volumes", "--timeout", "30")

    def name_of(self, service: str) -> str:
        """The container of a service."""
        return f"{PROJECT}_{service}_1"

    def log_of(self, service: str) -> str:
        """Both streams of a container."""
        done = self.engine.run("podman", "logs", self.name_of(service), check=False)
        return done.stdout + done.stderr

    def _once(self, service: str) -> None:
        self._compose("up", "-d", "--no-build", service)
        if (code := self.engine.podman("wait", self.name_of(service))) != "0":
            raise CheckFailedError(f"{service} ended with {code}: {self.log_of(service)[-2000:]}")

    def _healthy(self, service: str) -> bool:
        return self.engine.run("podman", "healthcheck", "run", self.name_of(service), check=False).returncode == 0

    def _compose(self, *words: str) -> None:
        files = ("-f", "docker-compose.yml", "-f", OVERRIDE.name)
        self.engine.run(self.engine.compose_program, "--in-pod=false", "-p", PROJECT, *files, *words, cwd=self.folder)

    def _demo_input(self) -> tuple[Path, Path, str]:
        place = self.folder / "input"
        self.engine.run(sys.executable, "-m", "ltp_verl.demo_input", "--out", place)
        return place / "model", place / "sums.jsonl", Path(demo.__file__).with_name("demo.yaml").read_text()

    def _tiny_input(self) -> tuple[Path, Path, str]:
        model, rows = self.folder / "model", self.folder / "sums.jsonl"
        self.engine.run(
            sys.executable, "-c", f"from tests.tiny_model import *; write_tiny_model(Path({str(model)!r}))", cwd=ROOT
        )
        write_rows(rows)
        return model, rows, RECIPE.format(model="model", steps=6, save_every=3)


_WARNINGS = ('"level": "warning"', '"level": "error"', '"level": "critical"', '"warning"', '"error"', "Traceback")


def eventually(
    condition: Callable[[], bool], seconds: float, otherwise: str, more: Callable[[], str] = lambda: ""
) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CheckFailedError(f"{otherwise} after {seconds} s\n{more()[-3000:]}")
        time.sleep(1)
