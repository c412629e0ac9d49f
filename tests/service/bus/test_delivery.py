"""What the bus promises, over a real nats-server and a real Postgres: nothing lost, nothing doubled, nothing storming."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from faststream.nats import NatsRouter
from nats.js import JetStreamContext

from ltp.bus.inbox import InboxUnit
from ltp.bus.relay import Relay
from ltp.bus.rpc import answered_by, ask, replies
from ltp.bus.subscriptions import heard_by
from ltp.contracts.host import HostSeen
from ltp.contracts.job import JobCancellationRequested
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.service.settings import CommonSettings
from ltp.store.database import Database
from tests.conftest import until

Running = Callable[[str, NatsRouter], AbstractAsyncContextManager[Runtime]]


@pytest.fixture
def running(nats_url: str, database_url: str, js: JetStreamContext) -> Running:
    """Runs a service made of one router."""

    @asynccontextmanager
    async def run(service: str, router: NatsRouter) -> AsyncIterator[Runtime]:
        runtime = Runtime(service, CommonSettings(nats_url=nats_url, database_url=database_url), [router])
        async with runtime.running():
            yield runtime

    return run


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Database]:
    """The database as the gateway sees it: it says cancellation requests."""
    database = Database.connect(database_url, "gateway")
    yield database
    await database.close()


async def say(database: Database) -> JobCancellationRequested:
    """Say an event through the outbox."""
    event = JobCancellationRequested(job_id=uuid4())
    async with database.unit() as unit:
        unit.emit(event, about=event.job_id)
    return event


async def test_an_event_reaches_its_listener_as_a_cloud_event(
    running: Running, gateway: Database, js: JetStreamContext
) -> None:
    router, heard = NatsRouter(), []

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        heard.append(event)

    said = await say(gateway)
    async with running("scheduler", router):
        await Relay(gateway, js).publish_batch()
        await until(lambda: heard)
    assert heard == [said]
    message = await js.get_last_msg("LTP_EVENTS", JobCancellationRequested.subject)
    headers = message.headers or {}
    assert headers["ce-type"] == message.subject == "ltp.job.v1.cancellation-requested"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-source"] == "/gateway"
    assert headers["ce-subject"] == str(said.job_id)
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    assert json.loads(message.data or b"") == {"job_id": str(said.job_id)}


async def test_an_event_delivered_twice_takes_effect_once(
    running: Running, gateway: Database, js: JetStreamContext
) -> None:
    router, effects = NatsRouter(), []

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        effects.append(event.job_id)

    said = await say(gateway)
    async with running("scheduler", router):
        await Relay(gateway, js).publish_batch()
        await until(lambda: effects)
        message = await js.get_last_msg("LTP_EVENTS", said.subject)
        # Another message id, so that JetStream lets it pass: only the inbox can tell.
        again = {**(message.headers or {}), "Nats-Msg-Id": "another"}
        await js.publish(said.subject, message.data or b"", headers=again)
        other = await say(gateway)
        await Relay(gateway, js).publish_batch()
        await until(lambda: other.job_id in effects)
    assert effects.count(said.job_id) == 1


async def test_a_failed_handler_undoes_its_effects_and_is_tried_again(
    running: Running, gateway: Database, js: JetStreamContext
) -> None:
    router, tries = NatsRouter(), []

    @router.subscriber(**heard_by("runner", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        tries.append(event.job_id)
        unit.emit(HostSeen(host_id="h", name="h", backend="local", devices=[], memory_bytes=1, cpus=1), about="h")
        if len(tries) == 1:
            raise RuntimeError("a passing fault")

    await say(gateway)
    async with running("runner", router):
        await Relay(gateway, js).publish_batch()
        await until(lambda: len(tries) == 2)

        async def said_once() -> bool:
            return (await js.stream_info("LTP_EVENTS")).state.messages == 2

        await until(said_once)


async def test_nothing_is_said_when_the_change_is_rolled_back(gateway: Database, js: JetStreamContext) -> None:
    with pytest.raises(RuntimeError):
        async with gateway.unit() as unit:
            unit.emit(JobCancellationRequested(job_id=uuid4()), about="x")
            raise RuntimeError("no")
    assert await Relay(gateway, js).publish_batch() == 0


async def test_a_message_that_cannot_be_read_is_set_aside_with_its_evidence(
    running: Running, js: JetStreamContext
) -> None:
    router, heard = NatsRouter(), []

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        heard.append(event)

    async with running("scheduler", router):
        await js.publish(JobCancellationRequested.subject, b'{"job_id": "no uuid"}', headers={"ce-id": str(uuid4())})

        async def set_aside() -> bool:
            return (await js.stream_info("LTP_DEAD")).state.messages == 1

        await until(set_aside)
        dead = await js.get_last_msg("LTP_DEAD", "ltp-dead.>")
    assert not heard
    assert (dead.headers or {})["ltp-subject"] == JobCancellationRequested.subject
    assert "no uuid" in (dead.data or b"").decode()


async def test_a_stream_that_was_emptied_is_refilled_from_postgres(
    running: Running, gateway: Database, js: JetStreamContext
) -> None:
    said = [await say(gateway) for _ in range(3)]
    relay = Relay(gateway, js)
    assert await relay.publish_batch() == 3
    await js.delete_stream("LTP_EVENTS")
    router, heard = NatsRouter(), []

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        heard.append(event.job_id)

    async with running("scheduler", router):
        assert await relay.republish_all() == 3
        await until(lambda: len(heard) == 3)
    assert heard == [event.job_id for event in said] or sorted(heard) == sorted(e.job_id for e in said)


async def test_a_stream_deleted_under_running_services_comes_back_with_all_it_held(
    running: Running, gateway: Database, js: JetStreamContext
) -> None:
    router, heard = NatsRouter(), []

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        heard.append(event)

    async with running("scheduler", router), running("gateway", NatsRouter()):
        first = await say(gateway)
        await until(lambda: heard == [first])
        await js.delete_stream("LTP_EVENTS")
        second = await say(gateway)
        await until(lambda: len(heard) == 2, seconds=30)
        assert heard == [first, second], "a fact was lost, or took effect twice"

        async def complete() -> bool:
            return (await js.stream_info("LTP_EVENTS")).state.messages == 2

        await until_async(complete)


async def until_async(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_only_its_speaker_may_say_an_event(gateway: Database) -> None:
    with pytest.raises(ValueError, match="said by runner"):
        async with gateway.unit() as unit:
            unit.emit(HostSeen(host_id="h", name="h", backend="local", devices=[], memory_bytes=1, cpus=1), about="h")


async def test_a_question_brings_back_the_error_with_its_code(running: Running) -> None:
    router = NatsRouter()

    @router.subscriber(**answered_by("planner", "double"))
    @replies
    async def double(question: JobCancellationRequested) -> JobCancellationRequested:
        raise LtpError(ErrorCode.PLAN_DOES_NOT_FIT, "Too big.", "Shrink it.")

    question: Any = JobCancellationRequested(job_id=uuid4())
    async with running("planner", router) as runtime:
        with pytest.raises(LtpError) as caught:
            await ask(runtime.client, "planner", "double", question, JobCancellationRequested)
        assert (caught.value.code, caught.value.hint) == (ErrorCode.PLAN_DOES_NOT_FIT, "Shrink it.")
        with pytest.raises(LtpError) as silent:
            await ask(runtime.client, "planner", "unknown", question, JobCancellationRequested)
        assert silent.value.code is ErrorCode.SERVICE_UNAVAILABLE
