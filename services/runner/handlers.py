"""What the runner says and answers: hosts seen, attempts' lives, and parts of their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.alarm import (
    Alarm,
    AlarmCleared,
    AlarmList,
    AlarmRaised,
    AlarmsRequest,
    Progress,
    ProgressRequest,
)
from ltp.contracts.attempt import (
    AttemptFailed,
    AttemptLost,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
)
from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.host import HostSeen
from ltp.contracts.questions import LogPart, LogRequest
from ltp.contracts.recipe_check import RecipeCheckAsked, RecipeChecked
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import ATTEMPT, AttemptState
from ltp.store.database import Database
from services.runner import alarms_store, store
from services.runner.backends import LinkDownError
from services.runner.checks import check_recipe
from services.runner.fleet import Fleet
from services.runner.log_text import lead_in, whole_characters
from services.runner.progress import progress_of
from services.runner.settings import RunnerSettings

SERVICE = "runner"
router = NatsRouter()

for event in (
    HostSeen,
    AttemptStarted,
    AttemptSucceeded,
    AttemptFailed,
    AttemptStopped,
    AttemptLost,
    CheckpointWritten,
    AlarmRaised,
    AlarmCleared,
):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, AttemptStopRequested))
async def want_stop(event: AttemptStopRequested, unit: InboxUnit) -> None:
    # The watcher of the attempt sees it at its next look, in whichever runner it lives.
    if not await store.want_stop(unit, event.run_id, event.number):
        raise NotYetError(f"attempt {event.number} of run {event.run_id} is not known yet")


@router.subscriber(**answered_by(SERVICE, "log"))
@replies
async def read_log(
    request: LogRequest,
    database: Annotated[Database, Context("database")],
    fleet: Annotated[Fleet, Context("fleet")],
) -> LogPart:
    row = await store.latest_attempt(database.engine, request.job_id, request.attempt)
    if row is None:
        what = "no attempt" if request.attempt is None else f"no attempt {request.attempt}"
        raise LtpError(ErrorCode.NOT_FOUND, f"The job has {what} yet, so there is no log.", "Try again later.")
    backend, run_dir = fleet.of(Placement.model_validate(row["placement"])), Path(row["run_dir"])
    try:
        size = await backend.size(run_dir, "log.txt")
        offset = request.offset if request.offset >= 0 else max(0, size + request.offset)
        # A log that was turned over is shorter than it was: it is read on from its new beginning.
        offset = offset if offset <= size else 0
        data = await backend.read(run_dir, "log.txt", offset, request.limit)
    except LinkDownError as error:
        hint = "The log lies on the host and is read again when it answers; what runs there goes on."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, str(error), hint) from error
    ended = ATTEMPT.is_over(AttemptState(row["state"]))
    if request.offset < 0:
        offset, data = offset + lead_in(data), data[lead_in(data) :]
    if not (ended and offset + len(data) >= size):
        data = whole_characters(data)
    over = ended and offset + len(data) >= size
    return LogPart(
        attempt=row["number"],
        offset=offset,
        next_offset=offset + len(data),
        text=data.decode(errors="replace"),
        is_over=over,
    )


@router.subscriber(**answered_by(SERVICE, "alarms"))
@replies
async def list_alarms(request: AlarmsRequest, database: Annotated[Database, Context("database")]) -> AlarmList:
    rows = await alarms_store.of_job(database.engine, request.job_id, active=request.active)
    return AlarmList(alarms=[Alarm.model_validate(dict(row)) for row in rows])


@router.subscriber(**answered_by(SERVICE, "progress"))
@replies
async def show_progress(
    request: ProgressRequest,
    database: Annotated[Database, Context("database")],
    fleet: Annotated[Fleet, Context("fleet")],
) -> Progress:
    row = await store.latest_attempt(database.engine, request.job_id, None)
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, "The job has no attempt yet.", "`ltp job why JOB` says what it waits for.")
    return await progress_of(fleet.of(Placement.model_validate(row["placement"])), row)


@router.subscriber(**answered_by(SERVICE, "check-recipe"), max_workers=2)
@replies
async def check(request: RecipeCheckAsked, settings: Annotated[RunnerSettings, Context("settings")]) -> RecipeChecked:
    return await check_recipe(request, settings.runner_python, settings.root())
