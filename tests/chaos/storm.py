"""The storm: faults drawn from a seed and done to a running platform, each written down with its moment and its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from ltp.bus.permissions import OPERATOR
from ltp.contracts import SERVICES
from ltp.up.servers import bus_url
from ltp.up.state import DataDir
from tests.conftest import free_port

# How often each fault is drawn, relative to the others.
WEIGHTS = {
    "kill a service": 26,
    "freeze a service": 22,
    "kill nats": 3,
    "kill postgres": 2,
    "freeze nats": 3,
    "freeze postgres": 3,
    "kill a launcher and its training": 4,
    "kill a launcher": 3,
    "freeze a launcher": 4,
    "cut the runner off for longer than its lease": 2,
    "delete the stream": 2,
    "repeat events": 14,
    "repeat events backwards": 8,
    "kill between commit and publish": 5,
    "kill the second scheduler": 3,
    "jump the clock": 3,
}
LEASE_SECONDS = 10.0
CLOCK_JUMPS = ("7200", "-7200", "40", "-40", "0")


@dataclass
class Storm:
    """Everything the faults need: where the platform lives, the dice, and the log of what was done."""

    data: Path
    dice: random.Random
    clock: Path
    log: list[tuple[float, str, str]] = field(default_factory=list)
    harmed: set[str] = field(default_factory=set)  # run directories whose training we killed ourselves
    second: subprocess.Popen[bytes] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def blow(self, faults: int, is_over: Callable[[], bool]) -> None:
        """Do `faults` faults, about one in half a second; stops early only when `is_over` says so."""
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        while len(self.log) < faults and not is_over():
            await self.fault(self.dice.choices(names, weights)[0])
            await asyncio.sleep(self.dice.uniform(0.1, 0.9))
        await asyncio.gather(*self._tasks)

    async def fault(self, name: str) -> None:
        """One fault. What cannot be done at this moment (its victim is down already) is not counted."""
        deed = getattr(self, "_" + name.replace(" ", "_"))
        outcome = await deed()
        if outcome is not None:
            self.log.append((time.monotonic(), name, outcome))

    def counts(self) -> Counter[str]:
        return Counter(name for _, name, _ in self.log)

    # Processes.

    def processes(self) -> dict[str, int]:
        record = DataDir(self.data).read_record()
        return {p.name: p.pid for p in record.processes if p.alive and p.pid} if record else {}

    async def _kill_a_service(self) -> str | None:
        return self._signal(self.dice.choice(SERVICES), signal.SIGKILL)

    async def _kill_nats(self) -> str | None:
        return self._signal("nats", signal.SIGKILL)

    async def _kill_postgres(self) -> str | None:
        return self._signal("postgres", signal.SIGKILL)

    async def _freeze_a_service(self) -> str | None:
        return self._freeze(self.dice.choice(SERVICES), self.dice.uniform(0.2, 4.0))

    async def _freeze_nats(self) -> str | None:
        return self._freeze("nats", self.dice.uniform(0.2, 3.0))

    async def _freeze_postgres(self) -> str | None:
        return self._freeze("postgres", self.dice.uniform(0.2, 3.0))

    async def _cut_the_runner_off_for_longer_than_its_lease(self) -> str | None:
        return self._freeze("runner", LEASE_SECONDS * 1.4)

    def _signal(self, name: str, number: signal.Signals) -> str | None:
        pid = self.processes().get(name)
        if pid is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return f"{name} {pid}"
        return None

    def _freeze(self, name: str, seconds: float) -> str | None:
        pid = self.processes().get(name)
        return None if pid is None else self._freeze_pid(pid, seconds, name)

    def _freeze_pid(self, pid: int, seconds: float, name: str) -> str | None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            task = asyncio.create_task(_thaw(pid, seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return f"{name} {pid} for {seconds:.1f} s"
        return None

    # Training.

    def _running(self) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        for path in self.data.glob("runs/*/*/status.json"):
            with contextlib.suppress(OSError, ValueError):
                status = json.loads(path.read_text())
                if status["state"] == "running" and Path(f"/proc/{status['launcher_pid']}").exists():
                    found.append((str(path.parent), status))
        return found

    async def _kill_a_launcher_and_its_training(self) -> str | None:
        """As when the host goes down: nobody is left to write how it ended."""
        return self._kill_training(both=True)

    async def _kill_a_launcher(self) -> str | None:
        return self._kill_training(both=False)

    def _kill_training(self, *, both: bool) -> str | None:
        running = self._running()
        if not running:
            return None
        run_dir, status = self.dice.choice(running)
        self.harmed.add(run_dir)
        with contextlib.suppress(ProcessLookupError):
            os.kill(status["launcher_pid"], signal.SIGKILL)
            if both:
                os.killpg(status["pgid"], signal.SIGKILL)
        return run_dir[-50:]

    async def _freeze_a_launcher(self) -> str | None:
        running = self._running()
        if not running:
            return None
        run_dir, status = self.dice.choice(running)
        return self._freeze_pid(status["launcher_pid"], self.dice.uniform(1, 6), run_dir[-50:])

    # The bus.

    def _nats_url(self) -> str:
        record = DataDir(self.data).read_record()
        assert record is not None
        return bus_url(DataDir(self.data), OPERATOR, record.ports["nats"])

    async def _delete_the_stream(self) -> str | None:
        async def delete(client: Any) -> str:
            with contextlib.suppress(NotFoundError):
                await client.jetstream().delete_stream("LTP_EVENTS")
            return "LTP_EVENTS"

        return await self._on_the_bus(delete)

    async def _repeat_events(self) -> str | None:
        return await self._on_the_bus(lambda client: self._repeat(client, backwards=False))

    async def _repeat_events_backwards(self) -> str | None:
        return await self._on_the_bus(lambda client: self._repeat(client, backwards=True))

    async def _repeat(self, client: Any, *, backwards: bool) -> str | None:
        """Publish facts of the past once more, under new message ids so that JetStream takes them for new."""
        js = client.jetstream()
        state = (await js.stream_info("LTP_EVENTS")).state
        if not state.messages:
            return None
        start = self.dice.randint(state.first_seq, state.last_seq)
        numbers = range(start, min(start + self.dice.randint(1, 12), state.last_seq + 1))
        told = 0
        for number in reversed(numbers) if backwards else numbers:
            with contextlib.suppress(NotFoundError):
                message = await js.get_msg("LTP_EVENTS", number)
                headers = {**(message.headers or {}), "Nats-Msg-Id": f"again-{self.dice.getrandbits(64)}"}
                await js.publish(message.subject, message.data or b"", headers=headers)
                told += 1
        return f"{told} from {start}"

    async def _on_the_bus(self, deed: Any) -> str | None:
        try:
            client = await nats.connect(self._nats_url(), connect_timeout=1, allow_reconnect=False)
            try:
                return await asyncio.wait_for(deed(client), 5)
            finally:
                await client.close()
        except (NatsError, OSError, TimeoutError, NotFoundError):
            return None

    async def _kill_between_commit_and_publish(self) -> str | None:
        """NATS stands still, so that what commits cannot be published; then the service that committed is killed."""
        frozen = self._freeze("nats", 1.5)
        if frozen is None:
            return None
        await asyncio.sleep(self.dice.uniform(0.3, 1.2))
        return self._signal(self.dice.choice(["gateway", "scheduler", "runner", "planner"]), signal.SIGKILL)

    # Clocks and doubles.

    async def _jump_the_clock(self) -> str | None:
        jump = self.dice.choice(CLOCK_JUMPS)
        self.clock.write_text(jump)
        return jump

    async def _kill_the_second_scheduler(self) -> str | None:
        if self.second is not None:
            self.second.kill()
            self.second.wait()
        self.start_second_scheduler()
        return "started again"

    def start_second_scheduler(self) -> None:
        """Another scheduler on the same database and bus, with the environment of the first."""
        pid = self.processes().get("scheduler")
        if pid is None:
            self.second = None
            return
        with contextlib.suppress(OSError):
            raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            environment = dict(item.decode().split("=", 1) for item in raw if b"=" in item)
            environment["LTP_HEALTH_PORT"] = str(free_port())
            with (self.data / "logs" / "scheduler-2.log").open("ab") as log:
                self.second = subprocess.Popen(
                    [sys.executable, "-m", "services.scheduler"], env=environment, stdout=log, stderr=log
                )

    def calm(self) -> None:
        """The second scheduler leaves and the clock goes right again."""
        self.clock.write_text("0")
        if self.second is not None:
            self.second.terminate()
            self.second.wait(20)


async def _thaw(pid: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
