"""Dead letters: read with their evidence, delivered again to who failed, dropped, and each of it twice."""

from __future__ import annotations

from uuid import uuid4

import pytest
from faststream.nats import NatsRouter
from nats.js import JetStreamContext

from ltp.bus import letters
from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by
from ltp.contracts.job import JobCancellationRequested
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.service.settings import CommonSettings
from tests.conftest import until


async def test_letters_are_read_in_pages_and_dropped(js: JetStreamContext) -> None:
    for index in range(3):
        headers = {"ltp-error": "no", "ltp-deliveries": "5", "ltp-subject": "ltp.host.v1.seen", "ce-id": f"id{index}"}
        await js.publish("ltp-dead.LTP_EVENTS.someone", b"\xff\x00", headers=headers)
    page = await letters.read(js, 0, 2)
    assert (page.total, [each.event_id for each in page.letters]) == (3, ["id0", "id1"])
    first = page.letters[0]
    assert (first.subject, first.consumer, first.error, first.deliveries) == ("ltp.host.v1.seen", "someone", "no", 5)
    assert [each.event_id for each in (await letters.read(js, page.letters[-1].seq, 9)).letters] == ["id2"]
    for _ in range(2):
        await letters.drop(js, first.seq)
    assert (await letters.read(js, 0, 9)).total == 2
    with pytest.raises(LtpError) as missing:
        await letters.find(js, first.seq)
    assert missing.value.code is ErrorCode.NOT_FOUND


async def test_a_replayed_letter_reaches_its_listener_once_it_can_be_taken_in(
    nats_url: str, database_url: str, js: JetStreamContext
) -> None:
    router, taken, broken = NatsRouter(), [], [True]

    @router.subscriber(**heard_by("scheduler", JobCancellationRequested))
    async def hear(event: JobCancellationRequested, unit: InboxUnit) -> None:
        if broken[0]:
            event.model_validate({"job_id": 1})
        taken.append(event.job_id)

    async def letter() -> int:
        found = (await letters.read(js, 0, 1)).letters
        return found[0].seq if found else 0

    runtime = Runtime("scheduler", CommonSettings(nats_url=nats_url, database_url=database_url), [router])
    async with runtime.running():
        event = JobCancellationRequested(job_id=uuid4())
        headers = {"ce-id": str(uuid4())}
        await js.publish(event.subject, event.model_dump_json().encode(), headers=headers)
        await until(letter)
        broken[0] = False
        seq = await letter()
        for _ in range(2):  # A second replay of the same letter says nothing.
            await letters.replay(js, seq)
        await until(lambda: taken == [event.job_id])
        assert (await letters.read(js, 0, 1)).total == 0
