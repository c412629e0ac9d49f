"""The life of jobs, model-checked: users, planner and runner do anything in any order, news comes late, twice and shuffled.

The scheduler's own handlers and placement run on a real Postgres; the bus is a bag from which hypothesis draws. Whatever it
draws, each job ends in one final state that is said once, no device is leased twice, and news of old attempts changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, func, select, update

from ltp.bus.delivery import NotYetError
from ltp.contracts import REGISTRY
from ltp.contracts.attempt import (
    AttemptFailed,
    AttemptLost,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
)
from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event
from ltp.contracts.host import HostSeen
from ltp.contracts.job import (
    JobCancellationRequested,
    JobOptions,
    JobOutgrown,
    JobPauseRequested,
    JobResumeRequested,
    JobSubmitted,
)
from ltp.contracts.plan import PlanMade, PlanRefused
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Device, Plan, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.tables import work
from ltp.queue.work import Work, claim, extend, finish
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.metadata import inbox_table, outbox_table
from services.scheduler import handlers, hosts, placement, store

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "model": {"path": "/m"},
        "dataset": {"name": "d"},
        "training": {"steps": 9, "batch_size": 1, "learning_rate": 0.1},
    }
)
DATASET = DatasetVersion(name="d", version="0" * 64, rows=1, splits={})
PLAN = Plan(
    device_kind="gpu", devices=1, micro_batch_size=1, gradient_checkpointing=False, parameters=1, memory_bytes=1,
    memory_upper_bytes=1, device_memory_bytes=1, memory_components={},
)  # fmt: skip
GPUS = [Device(index=i, kind="gpu", model="x", memory_bytes=8) for i in range(2)]
HOSTS = [HostSeen(host_id=h, name=h, backend="local", devices=GPUS, memory_bytes=8, cpus=1) for h in ("a", "b")]
FAILURES = [
    ErrorCode.TRAINING_FAILED,
    ErrorCode.TRAINING_OUT_OF_MEMORY,
    ErrorCode.COLLECTIVE_FAILED,
    ErrorCode.DEVICE_FAILED,
]
FINAL = {"ltp.job.v1.succeeded", "ltp.job.v1.failed", "ltp.job.v1.cancelled"}
LEASE = timedelta(hours=1)
HEARS: dict[type[Event], Callable[..., Coroutine[Any, Any, None]]] = {
    JobSubmitted: handlers.open_job,
    PlanMade: handlers.take_plan,
    PlanRefused: handlers.fail_unplannable,
    JobPauseRequested: handlers.pause,
    JobResumeRequested: handlers.resume,
    JobCancellationRequested: handlers.cancel,
    AttemptStarted: handlers.start,
    AttemptSucceeded: handlers.succeed,
    AttemptFailed: handlers.retry_or_fail,
    AttemptStopped: handlers.go_on_after_stop,
    AttemptLost: handlers.retry_lost,
    CheckpointWritten: handlers.note_checkpoint,
    HostSeen: handlers.see_host,
}


class JobMachine(RuleBasedStateMachine):
    """Everybody around the scheduler. `bag` holds news on its way, `said` what the scheduler said, in order."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.database = Database.connect(self.url, "scheduler")
        self.bag: list[tuple[UUID, Event]] = []
        self.said: list[Event] = []
        self.read = 0
        self.jobs: list[UUID] = []
        self.cancelled: set[UUID] = set()
        self.held: list[Work] = []
        self.stops: set[tuple[str, int]] = set()
        self.do(self._clean())
        for host in HOSTS:
            self.do(self._hear(new_id(), host))

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    async def _clean(self) -> None:
        async with self.database.unit() as unit:
            tables = (store.jobs, hosts.hosts, hosts.leased_devices, hosts.leases, work)
            for table in (*tables, inbox_table("scheduler"), outbox_table("scheduler")):
                await unit.execute(delete(table))

    def tell(self, event: Event) -> None:
        self.bag.append((new_id(), event))

    # What users do.

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(priority=st.integers(0, 2), preemptible=st.booleans(), start=st.sampled_from([True, True, True, False]))
    def submit(self, priority: int, preemptible: bool, start: bool) -> None:
        job_id = new_id()
        self.jobs.append(job_id)
        options = JobOptions(priority=priority, preemptible=preemptible, start=start)
        self.tell(JobSubmitted(job_id=job_id, recipe=RECIPE, recipe_hash="0" * 64, dataset=DATASET, options=options))
        self.tell(PlanMade(plan_id=new_id(), job_id=job_id, recipe=RECIPE, dataset=DATASET, plan=PLAN))

    @precondition(lambda self: self.jobs)
    @rule(
        pick=st.integers(0, 99), wish=st.sampled_from([JobPauseRequested, JobResumeRequested, JobCancellationRequested])
    )
    def ask(self, pick: int, wish: Any) -> None:
        job_id = self.jobs[pick % len(self.jobs)]
        if wish is JobCancellationRequested:
            self.cancelled.add(job_id)
        self.tell(wish(job_id=job_id))

    # What the bus does: any message next, and sometimes again.

    @precondition(lambda self: self.bag)
    @rule(pick=st.integers(0, 999), again=st.booleans())
    def deliver(self, pick: int, again: bool) -> None:
        index = pick % len(self.bag)
        event_id, event = self.bag[index]
        if self.do(self._hear(event_id, event)) and not again:
            self.bag.remove((event_id, event))

    @precondition(lambda self: self.bag)
    @rule(order=st.randoms(use_true_random=False))
    def deliver_most(self, order: Any) -> None:
        for event_id, event in order.sample(self.bag, len(self.bag)):
            if self.do(self._hear(event_id, event)):
                self.bag.remove((event_id, event))
        self.place()
        self.take()

    async def _hear(self, event_id: UUID, event: Event) -> bool:
        hear = HEARS.get(type(event))
        if hear is None:
            return True
        try:
            async with self.database.unit(cause=event_id) as unit:
                if await unit.first_time(event_id, event.subject):
                    await hear(event, unit)
        except NotYetError:
            return False
        await self._relay()
        return True

    async def _relay(self) -> None:
        outbox = outbox_table("scheduler")
        async with self.database.unit() as unit:
            query = select(outbox).where(outbox.c.id > self.read).order_by(outbox.c.id)
            for row in (await unit.execute(query)).mappings().all():
                self.read = row["id"]
                event = REGISTRY[row["subject"]].model_validate(json.loads(row["payload"]))
                self.said.append(event)
                if isinstance(event, AttemptStopRequested):
                    self.stops.add((str(event.run_id), event.number))
                if isinstance(event, JobOutgrown):
                    self._replan(event)

    def _replan(self, event: JobOutgrown) -> None:
        """The planner: a smaller plan once, then none."""
        if event.plan.micro_batch_size == 1 and event.attempt > 2:
            problem = Problem(code=ErrorCode.PLAN_DOES_NOT_FIT, message="")
            self.tell(PlanRefused(job_id=event.job_id, problem=problem, after_attempt=event.attempt))
            return
        made = PlanMade(
            plan_id=new_id(),
            job_id=event.job_id,
            recipe=RECIPE,
            dataset=DATASET,
            plan=PLAN,
            after_attempt=event.attempt,
        )
        self.tell(made)

    # What the scheduler's loop and the runner do.

    @rule()
    def place(self) -> None:
        self.do(self._place())

    async def _place(self) -> None:
        async with self.database.unit() as unit:
            await placement.place_once(unit, timedelta(minutes=3))
        await self._relay()

    @rule()
    def take(self) -> None:
        held = self.do(self._claim())
        if held is not None:
            self.held.append(held)
            payload = held.payload
            known = {k: payload[k] for k in ("attempt_id", "run_id", "number")}
            self.tell(
                AttemptStarted(**known, job_id=payload["made"]["job_id"], placement=held.placement, started_at=now())
            )

    async def _claim(self) -> Work | None:
        async with self.database.unit() as unit:
            return await claim(unit, ["train"], "runner", LEASE)

    @precondition(lambda self: self.held)
    @rule(
        pick=st.integers(0, 99),
        how=st.sampled_from(["checkpoint", "succeed", "fail", "lose", "look", "leave"]),
        code=st.sampled_from(FAILURES),
    )
    def train(self, pick: int, how: str, code: ErrorCode) -> None:
        held = self.held[pick % len(self.held)]
        known = {k: held.payload[k] for k in ("attempt_id", "run_id")} | {"job_id": held.payload["made"]["job_id"]}
        stopped = (held.payload["run_id"], held.payload["number"]) in self.stops or self.do(self._cancelled(held))
        problem = Problem(code=code, message="")
        ended = {**known, "ended_at": now()}
        if how == "checkpoint":
            self.tell(
                CheckpointWritten(**known, checkpoint_id=new_id(), step=1, is_final=False, path="/c", size_bytes=1)
            )
            return
        if how == "look" and not stopped:
            return
        news: Event = AttemptStopped(**ended) if how == "look" else AttemptSucceeded(**ended, steps=9)
        if how == "leave":
            # By itself, because its disk is nearly full: the job waits, paused.
            full = Problem(code=ErrorCode.DISK_FULL, message="nearly")
            news = AttemptStopped(**ended, problem=full)
        if how == "fail":
            news = AttemptFailed(
                **ended, problem=problem, exit_code=1, host_id=held.placement.host_id if held.placement else None
            )
        if how == "lose":
            news = AttemptLost(**ended, problem=Problem(code=ErrorCode.ATTEMPT_LOST, message=""))
        self.held.remove(held)
        if self.do(self._settle(held)):
            self.tell(news)

    async def _cancelled(self, held: Work) -> bool:
        try:
            async with self.database.unit() as unit:
                return await extend(unit, held, LEASE)
        except LtpError:
            return False

    async def _settle(self, held: Work) -> bool:
        """False when the lease is gone: a late writer is refused, and says nothing."""
        try:
            async with self.database.unit() as unit:
                await finish(unit, held)
        except LtpError:
            return False
        return True

    @precondition(lambda self: self.held)
    @rule(name=st.sampled_from(["a", "b"]))
    def lose_host(self, name: str) -> None:
        self.do(self._lose(name))
        self.tell(next(h for h in HOSTS if h.host_id == name))
        # Back again, its runner sweeps up what was given up there, and says so late.
        for held in [h for h in self.held if h.placement is not None and h.placement.host_id == name]:
            self.held.remove(held)
            assert not self.do(self._settle(held)), "a late writer was accepted"
            known = {k: held.payload[k] for k in ("attempt_id", "run_id")} | {"job_id": held.payload["made"]["job_id"]}
            problem = Problem(code=ErrorCode.HOST_LOST, message="")
            self.tell(AttemptLost(**known, ended_at=now(), problem=problem, host_id=name))

    async def _lose(self, name: str) -> None:
        async with self.database.unit() as unit:
            await placement.lose_host(unit, name)
        await self._relay()

    # What must hold at every moment.

    @invariant()
    def each_end_is_said_once_and_nothing_after_it(self) -> None:
        ends = Counter(e.job_id for e in self.said if e.subject in FINAL)  # type: ignore[attr-defined]
        assert all(count == 1 for count in ends.values()), ends
        over: set[UUID] = set()
        for event in self.said:
            job_id = getattr(event, "job_id", None)
            if event.subject.startswith("ltp.job."):
                assert job_id not in over, f"{event.subject} after the end"
            if event.subject in FINAL:
                over.add(job_id)  # type: ignore[arg-type]

    @invariant()
    def attempts_of_a_job_follow_each_other(self) -> None:
        active = self.do(self._active())
        assert all(count == 1 for count in active.values()), active

    async def _active(self) -> Counter[str]:
        async with self.database.unit() as unit:
            query = select(work.c.wants["job_id"].astext).where(work.c.state.in_(["queued", "running"]))
            return Counter((await unit.execute(query)).scalars().all())

    def teardown(self) -> None:
        try:
            self._drain()
            self._all_is_settled()
        finally:
            self.do(self.database.close())

    def _drain(self) -> None:
        """Everybody does their duty until nothing is left to do."""
        for _ in range(60):
            for event_id, event in list(self.bag):
                if self.do(self._hear(event_id, event)):
                    self.bag.remove((event_id, event))
            self.place()
            self.do(self._make_due())
            self.take()
            while self.held:
                self.train(0, "look", FAILURES[0])
                if self.held:
                    self.train(0, "succeed", FAILURES[0])

    async def _make_due(self) -> None:
        async with self.database.unit() as unit:
            await unit.execute(update(work).where(work.c.state == "queued").values(run_at=now()))

    def _all_is_settled(self) -> None:
        assert self.bag == []
        states = self.do(self._states())
        assert all(JOB.is_over(state) or state is JobState.PAUSED for state in states.values()), self.do(self._rows())
        assert all(JOB.is_over(states[job_id]) for job_id in self.cancelled), "a cancelled job is not over"
        assert self.do(self._leases()) == 0

    async def _states(self) -> dict[UUID, JobState]:
        async with self.database.unit() as unit:
            rows = (await unit.execute(select(store.jobs.c.job_id, store.jobs.c.state))).all()
        return {row.job_id: JobState(row.state) for row in rows}

    async def _rows(self) -> list[str]:
        """What there is to see of jobs and of their work, for the message of a failed assertion."""
        async with self.database.unit() as unit:
            rows = (await unit.execute(select(store.jobs))).mappings().all()
            works = (await unit.execute(select(work))).mappings().all()
        told = [f"{r['job_id']} {r['state']} attempt {r['attempt']} awaiting {r['awaiting_plan']}" for r in rows]
        return told + [f"{w['dedup_key']} {w['state']} {w['run_at']} {w['placement']} {w['wants']}" for w in works]

    async def _leases(self) -> int:
        async with self.database.unit() as unit:
            held = select(func.count()).select_from(hosts.leases).where(hosts.leases.c.released_at.is_(None))
            return (await unit.execute(held)).scalar_one()


# Shrinking costs minutes on a database; the failing example is printed as it was found.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


def check(database_url: str, examples: int, **more: Any) -> None:
    loop = asyncio.new_event_loop()
    JobMachine.url, JobMachine.loop = database_url, loop
    chosen = settings(
        max_examples=examples,
        stateful_step_count=60,
        deadline=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    try:
        run_state_machine_as_test(JobMachine, settings=chosen)
    finally:
        loop.close()


def test_whatever_happens_in_whatever_order_each_job_ends_once(database_url: str) -> None:
    check(database_url, 10, derandomize=True)


@pytest.mark.slow
def test_many_more_histories_with_another_seed_each_time(database_url: str) -> None:
    check(database_url, 300)
