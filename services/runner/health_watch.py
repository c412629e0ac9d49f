"""Keeps the alarms of one attempt: what `health.py` finds in its newest metrics, told when it begins and when it is over."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from ltp.contracts.alarm import AlarmCleared, AlarmRaised
from ltp.contracts.plan import PlanMade
from ltp.store.clock import now
from ltp.store.database import Database, Unit
from services.runner import alarms_store
from services.runner.backends import Backend, LaunchStatus
from services.runner.facts import AttemptFacts
from services.runner.health import Finding, Point, Surroundings, findings
from services.runner.policy import host_memory_of
from services.runner.traces import MetricsLine, read_metrics

_WINDOW = 300
# How much of the metrics a runner that takes an attempt up reads again, and how often samples are looked at.
_BYTES_AGAIN, _SAMPLE_SECONDS = 262_144, 10.0


class HealthWatch:
    """The window of an attempt's metrics, and which of its alarms are open."""

    def __init__(
        self, facts: AttemptFacts, made: PlanMade, database: Database, backend: Backend, run_dir: Path
    ) -> None:
        self._facts, self._made, self._database = facts, made, database
        self._backend, self._run_dir = backend, run_dir
        self.points: deque[Point] = deque(maxlen=_WINDOW)
        self._open: dict[str, str] | None = None
        self._sampled_at = float("-inf")
        self._memory: tuple[float, int] | None = None

    async def take_up(self, offset: int) -> None:
        """Read the newest lines before `offset` again, which another runner read; the first is likely a part of one."""
        if offset and not self.points:
            self.add(await read_metrics(self._backend, self._run_dir, max(0, offset - _BYTES_AGAIN)))

    def add(self, lines: Sequence[MetricsLine]) -> None:
        """Take in lines that came. A validation's own line belongs to the step before it."""
        for line in lines:
            if line.step < 0:
                continue
            if self.points and self.points[-1].step == line.step:
                values = {**self.points.pop().values, **line.values}
                self.points.append(Point(line.step, values))
            elif not self.points or line.step > self.points[-1].step:
                self.points.append(Point(line.step, line.values))

    def value(self, metric: str, step: int) -> float | None:
        """What a metric was at a step, where it was a number and the window reaches so far back."""
        found = next((p.values[metric] for p in self.points if p.step == step and metric in p.values), math.nan)
        return found if math.isfinite(found) else None

    async def look(self, status: LaunchStatus, hold: Callable[[Unit], Coroutine[Any, Any, object]]) -> None:
        """Raise and clear what changed; `hold` proves in the same transaction that the lease is still ours."""
        if self._open is None:
            self._open = await alarms_store.open_rules(self._database.engine, self._facts.attempt_id)
        found = {finding.rule: finding for finding in findings(list(self.points), await self._around(status))}
        # One that became worse is told anew.
        fresh = [f for f in found.values() if self._open.get(f.rule) not in {f.severity, "critical"}]
        over = (self._open.keys() - found.keys()) | {f.rule for f in fresh if f.rule in self._open}
        if not fresh and not over:
            return
        async with self._database.unit() as unit:
            await hold(unit)
            await self._clear(unit, over)
            for finding in fresh:
                await self._raise(unit, finding)
        self._open = {rule: level for rule, level in self._open.items() if rule not in over}
        self._open |= {finding.rule: finding.severity for finding in fresh}

    async def end(self, unit: Unit) -> None:
        """Clear what is open, in the transaction that ends the attempt."""
        await self._clear(unit, None)

    async def _around(self, status: LaunchStatus) -> Surroundings:
        if time.monotonic() - self._sampled_at > _SAMPLE_SECONDS:
            self._sampled_at = time.monotonic()
            size = await self._backend.size(self._run_dir, "samples.jsonl")
            tail = await self._backend.read(self._run_dir, "samples.jsonl", max(0, size - 8192), 8192)
            self._memory = host_memory_of(tail)
        plan, section = self._made.plan, self._made.recipe.reinforcement
        available, total = self._memory or (0, 0)
        return Surroundings(
            max_response_length=None if section is None else section.max_response_length,
            device_memory_bytes=plan.device_memory_bytes if plan.device_kind == "gpu" else None,
            host_available_share=available / total if total else None,
            host_available_bytes=int(available) if total else None,
            stalled=status.stalled,
            disk=status.disk,
        )

    async def _raise(self, unit: Unit, finding: Finding) -> None:
        step = self.points[-1].step if self.points else None
        row = {
            **self._ids(), "attempt": self._facts.number, "rule": finding.rule, "severity": finding.severity,
            "message": finding.message, "hint": finding.hint, "evidence": finding.evidence, "step": step,
            "raised_at": now(),
        }  # fmt: skip
        alarm_id = await alarms_store.raise_alarm(unit, row)
        if alarm_id is not None:
            unit.emit(AlarmRaised(alarm_id=alarm_id, **row), about=alarm_id)

    async def _clear(self, unit: Unit, rules: set[str] | None) -> None:
        cleared_at = now()
        for row in await alarms_store.clear(unit, self._facts.attempt_id, rules, cleared_at):
            event = AlarmCleared(alarm_id=row["alarm_id"], **self._ids(), rule=row["rule"], cleared_at=cleared_at)
            unit.emit(event, about=row["alarm_id"])

    def _ids(self) -> dict[str, Any]:
        return {"job_id": self._facts.job_id, "run_id": self._facts.run_id, "attempt_id": self._facts.attempt_id}
