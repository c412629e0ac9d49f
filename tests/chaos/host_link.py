"""Faults on the way between the runner and a host: real runner processes, a real sshd behind a bad link, and stand-ins that train."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sqlalchemy import select, text, update

from ltp.contracts.host_access import Access, HostRegistered, secret_name
from ltp.queue.policy import Queue
from ltp.queue.tables import work
from ltp.queue.work import enqueue
from ltp.security.keyring import make_keyring
from ltp.security.secrets import Secrets
from ltp.store.database import Database
from services.runner import hosts_store, store
from tests.conftest import free_port
from tests.service.runner.sshd import BadLink, Sshd

HOST = "gpu1"
_DIGEST = "0" * 64


@dataclass
class LinkStorm:
    """Runs on a host, runners that watch them, and a seeded hand that breaks things between the two."""

    folder: Path
    database_url: str
    nats_url: str
    seed: int
    steps: int
    slow_seconds: float = 10.0
    stop_seconds: float = 14.0
    runners: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    async def __aenter__(self) -> Self:
        self.dice = random.Random(self.seed)
        self.sshd = Sshd(self.folder / "sshd").start()
        self.link = await BadLink(self.sshd.port).start()
        self.database = Database.connect(self.database_url, "runner")
        await self._register()
        for name in ("a", "b"):
            self.start_runner(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.runners.values():
            process.kill()
            process.wait()
        await self.link.stop()
        self.sshd.stop()
        await self.database.close()

    async def _register(self) -> None:
        data = self.folder / "data"
        (data / "secrets").mkdir(parents=True)
        make_keyring(data / "secrets" / "keyring")
        access = Access(
            address="127.0.0.1", port=self.link.port, user=self.sshd.user,
            work_dir=str(self.folder / "host"), python=str(self._interpreter()),
        )  # fmt: skip
        secret = json.dumps({"value": self.sshd.client_key.read_text()})
        async with self.database.unit() as unit:
            await Secrets.of(self.database.engine, data).put(unit, secret_name(HOST), secret, "default")
            event = HostRegistered(host_id=HOST, access=access, labels={}, secret="private_key")
            await hosts_store.register(unit, event)

    def _interpreter(self) -> Path:
        """A Python that trains by standing in, and is itself for everything else."""
        stand_in = Path(__file__).with_name("stand_in.py")
        path = self.folder / "python"
        lines = [
            "#!/bin/sh", f"export HOME={self.folder}", 'case "$*" in',
            f'*ltp_verl.*) exec {sys.executable} {stand_in} "$@";;', f'*) exec {sys.executable} "$@";;', "esac",
        ]  # fmt: skip
        path.write_text("\n".join(lines) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        return path

    def start_runner(self, name: str) -> None:
        """A runner process that reaches the host; two of them watch for each other's death."""
        environment = os.environ | {
            "LTP_DATABASE_URL": self.database_url, "LTP_NATS_URL": self.nats_url,
            "LTP_DATA_DIR": str(self.folder / "data"), "LTP_HEALTH_PORT": str(free_port()),
            "LTP_RUNNER_HOST_NAME": f"manager-{name}", "LTP_RUNNER_HOST_SEEN_SECONDS": "5",
        }  # fmt: skip
        log = (self.folder / f"runner-{name}.log").open("ab")
        command = [sys.executable, "-m", "services.runner"]
        self.runners[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    async def submit(self) -> uuid.UUID:
        """Work to train on the host, as the scheduler would have placed it; the run's id."""
        job_id, run_id, attempt_id = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
        payload = {
            "attempt_id": str(attempt_id), "run_id": str(run_id), "number": 1,
            "made": _made(job_id, self.folder, self.steps), "resume_from": None,
        }  # fmt: skip
        placement = {"host_id": HOST, "device_kind": "cpu", "device_indexes": [0]}
        key = f"train:{job_id}:1"
        async with self.database.unit() as unit:
            enqueue(unit, Queue.TRAINING, "train", payload, dedup_key=key, wants={"count": 1, "kind": "cpu"})
        async with self.database.unit() as unit:
            # As the scheduler gives devices.
            await unit.execute(update(work).where(work.c.dedup_key == key).values(placement=placement))
        return run_id

    async def break_something(self) -> None:
        """One fault, and its end."""
        kind = self.dice.choice(["kill", "stop", "cut", "cut", "silence", "slow", "refuse", "sshd"])
        self.faults[kind] += 1
        name, spell = self.dice.choice(["a", "b"]), self.dice.random()
        if kind == "kill":
            self.runners[name].kill()
            self.runners[name].wait()
            self.start_runner(name)
        elif kind == "stop":
            self.runners[name].send_signal(signal.SIGSTOP)
            await asyncio.sleep(spell * self.stop_seconds)
            self.runners[name].send_signal(signal.SIGCONT)
        elif kind == "cut":
            self.link.cut()
        elif kind == "silence":
            self.link.silent = True
            await asyncio.sleep(spell * 3)
            self.link.silent = False
        elif kind == "slow":
            self.link.delay = spell * self.slow_seconds
            await asyncio.sleep(self.dice.random() * 4)
            self.link.delay = 0.0
        elif kind == "refuse":
            self.link.refuses = True
            self.link.cut()
            await asyncio.sleep(spell * 2)
            self.link.refuses = False
        else:
            self.sshd.stop()
            await asyncio.sleep(spell)
            self.sshd.start()

    async def states(self) -> dict[uuid.UUID, str]:
        """Run -> state of its attempt, as the platform knows it."""
        async with self.database.engine.connect() as connection:
            rows = (await connection.execute(select(store.attempts.c.run_id, store.attempts.c.state))).all()
        return {row.run_id: row.state for row in rows}

    async def _problem(self, run: uuid.UUID) -> Any:
        async with self.database.engine.connect() as connection:
            return await connection.scalar(select(store.attempts.c.problem).where(store.attempts.c.run_id == run))

    async def told(self) -> Counter[tuple[str, str]]:
        """(subject, run) -> how often the runner said it."""
        query = text(
            "SELECT subject, body ->> 'run_id' AS run FROM (SELECT subject, convert_from(payload, 'UTF8')::jsonb AS body FROM runner.outbox WHERE subject LIKE 'ltp.attempt.%') AS said"
        )
        async with self.database.engine.connect() as connection:
            return Counter((row.subject, row.run) for row in await connection.execute(query))

    def trained(self) -> dict[str, list[tuple[int, int]]]:
        """Run -> (process, step) of every step that a stand-in really did."""
        found: dict[str, list[tuple[int, int]]] = {}
        path = self.folder / "witness.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            found.setdefault(row["run"], []).append((row["pid"], row["step"]))
        return found

    async def until_over(self, runs: list[uuid.UUID], seconds: float) -> None:
        """Wait until every run is over as the platform knows it."""
        deadline = time.monotonic() + seconds
        while True:
            states = await self.states()
            if all(states.get(run) in {"succeeded", "failed", "lost", "stopped"} for run in runs):
                return
            assert time.monotonic() < deadline, (Counter(states.get(run) for run in runs), self.logs())
            await asyncio.sleep(0.2)

    async def check(self, runs: list[uuid.UUID]) -> None:
        """No healthy run restarted, none lost: one process a run, every step once, one success told of each."""
        states, trained, told = await self.states(), self.trained(), await self.told()
        for run in runs:
            assert states[run] == "succeeded", (states[run], await self._problem(run), self.logs())
            assert [step for _, step in trained[str(run)]] == list(range(1, self.steps + 1))
            assert len({pid for pid, _ in trained[str(run)]}) == 1
            for subject in ("ltp.attempt.v1.started", "ltp.attempt.v1.succeeded"):
                assert told[subject, str(run)] == 1, (subject, told)

    def logs(self) -> str:
        """The last of what the runners said."""
        tails = [log.read_text(errors="replace")[-1500:] for log in sorted(self.folder.glob("runner-*.log"))]
        return "\n".join(tails)


def _made(job_id: uuid.UUID, folder: Path, steps: int) -> dict[str, Any]:
    rows, model = folder / "train.parquet", folder / "model"
    rows.write_bytes(b"rows")
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return {
        "plan_id": str(uuid.uuid4()),
        "job_id": str(job_id),
        "recipe": {
            "name": "storm", "algorithm": "sft", "model": {"path": str(model)}, "dataset": {"name": "sums"},
            "training": {"steps": steps, "batch_size": 8, "learning_rate": 1e-3, "max_length": 64, "save_every": 8},
        },
        "dataset": {
            "name": "sums", "version": _DIGEST, "rows": 64,
            "splits": {"train": {"rows": 64, "path": str(rows), "answered": 64}},
        },
        "plan": {
            "device_kind": "cpu", "devices": 1, "micro_batch_size": 4, "gradient_checkpointing": False, "parameters": 1,
            "memory_bytes": 1, "memory_upper_bytes": 1, "device_memory_bytes": 1, "memory_components": {},
        },
    }  # fmt: skip
