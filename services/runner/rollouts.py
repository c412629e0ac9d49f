"""What a model under reinforcement learning answered, read from the end of the file its trainer keeps beside its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter
from pydantic import ValidationError

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.rollouts import RolloutSample, RolloutsRequest, RunRollouts
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.runner import store
from services.runner.backends import LinkDownError
from services.runner.fleet import Fleet

router = NatsRouter()

# `ltp_verl.samples` keeps at most 16 responses a step, of 16,000 characters: this holds the newest eight steps at the least.
_MOST_BYTES = 8 << 20
_FILES = {"training": "rollouts.jsonl", "validation": "validation.jsonl"}
# What one answer over the bus may hold: a megabyte, at up to three bytes a character.
_ANSWER_CHARACTERS = 250_000


@router.subscriber(**answered_by("runner", "rollouts"))
@replies
async def read_rollouts(
    request: RolloutsRequest,
    database: Annotated[Database, Context("database")],
    fleet: Annotated[Fleet, Context("fleet")],
) -> RunRollouts:
    """Answer what an attempt's model answered."""
    row = await store.latest_attempt(database.engine, request.job_id, request.attempt)
    if row is None:
        what = "no attempt" if request.attempt is None else f"no attempt {request.attempt}"
        raise LtpError(ErrorCode.NOT_FOUND, f"The job has {what} yet, so nothing was answered.", "Try again later.")
    backend, name = fleet.of(Placement.model_validate(row["placement"])), _FILES[request.kind]
    run_dir = Path(row["run_dir"])
    try:
        size = await backend.size(run_dir, name)
        data = await backend.read(run_dir, name, max(0, size - _MOST_BYTES), _MOST_BYTES)
    except LinkDownError as error:
        hint = "The samples lie on the host and are read again when it answers; what runs there goes on."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, str(error), hint) from error
    found = samples_of(data)
    steps = sorted({sample.step for sample in found}, reverse=True)
    wanted = request.step if request.step is not None else next(iter(steps), None)
    return RunRollouts(
        attempt=row["number"],
        kind=request.kind,
        steps=steps,
        step=wanted,
        samples=bounded([sample for sample in found if sample.step == wanted]),
    )


def samples_of(data: bytes) -> list[RolloutSample]:
    """The whole samples of a part of a file; what was cut off at either end, or is none, is left out."""
    found: list[RolloutSample] = []
    for line in data.split(b"\n"):
        try:
            sample: Any = json.loads(line)
            found.append(RolloutSample.model_validate(sample))
        except (ValueError, ValidationError):
            continue
    return found


def bounded(samples: list[RolloutSample]) -> list[RolloutSample]:
    """The first so many that an answer can hold; never fewer than one."""
    left, kept = _ANSWER_CHARACTERS, list[RolloutSample]()
    for sample in samples:
        left -= len(sample.prompt) + len(sample.response)
        if kept and left < 0:
            break
        kept.append(sample)
    return kept
