"""What a run used of its host: the launcher's samples, read where they lie and thinned out for whoever draws them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter
from pydantic import ValidationError

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.usage import GpuUsage, RunUsage, UsageRequest, UsageSample
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.runner import store
from services.runner.backends import LinkDownError
from services.runner.fleet import Fleet

router = NatsRouter()

# A sample each ten seconds has about 300 bytes: this holds a day and a half, the newest.
_MOST_BYTES = 4 << 20


@router.subscriber(**answered_by("runner", "usage"))
@replies
async def read_usage(
    request: UsageRequest,
    database: Annotated[Database, Context("database")],
    fleet: Annotated[Fleet, Context("fleet")],
) -> RunUsage:
    """Answer what an attempt used."""
    row = await store.latest_attempt(database.engine, request.job_id, request.attempt)
    if row is None:
        what = "no attempt" if request.attempt is None else f"no attempt {request.attempt}"
        raise LtpError(ErrorCode.NOT_FOUND, f"The job has {what} yet, so nothing was measured.", "Try again later.")
    placement = Placement.model_validate(row["placement"])
    backend, run_dir = fleet.of(placement), Path(row["run_dir"])
    try:
        size = await backend.size(run_dir, "samples.jsonl")
        data = await backend.read(run_dir, "samples.jsonl", max(0, size - _MOST_BYTES), _MOST_BYTES)
    except LinkDownError as error:
        hint = "The samples lie on the host and are read again when it answers; what runs there goes on."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, str(error), hint) from error
    return RunUsage(
        attempt=row["number"],
        device_kind=placement.device_kind,
        device_indexes=placement.device_indexes,
        samples=thinned(samples_of(data), request.most),
    )


def samples_of(data: bytes) -> list[UsageSample]:
    """The whole samples of a part of a file; what was cut off at either end, or is none, is left out."""
    found: list[UsageSample] = []
    for line in data.splitlines():
        try:
            sample: Any = json.loads(line)
            found.append(UsageSample.model_validate({name: sample[name] for name in UsageSample.model_fields}))
        except (ValueError, KeyError, TypeError, ValidationError):
            continue
    return found


def thinned(samples: Sequence[UsageSample], most: int) -> list[UsageSample]:
    """At most so many, each the extremes of those it stands for, so that no peak is lost."""
    size = -(-len(samples) // most)
    if size <= 1:
        return list(samples)
    return [_joined(samples[at : at + size]) for at in range(0, len(samples), size)]


def _joined(samples: Sequence[UsageSample]) -> UsageSample:
    gpus: dict[int, GpuUsage] = {}
    for gpu in (gpu for sample in samples for gpu in sample.gpus):
        known = gpus.get(gpu.index, gpu)
        gpus[gpu.index] = GpuUsage(
            index=gpu.index,
            utilization=_highest(known.utilization, gpu.utilization),
            memory_bytes=_highest(known.memory_bytes, gpu.memory_bytes),
        )
    return UsageSample(
        at=samples[0].at,
        memory_bytes=max(sample.memory_bytes for sample in samples),
        processes=max(sample.processes for sample in samples),
        host_available_bytes=min(sample.host_available_bytes for sample in samples),
        host_total_bytes=samples[-1].host_total_bytes,
        gpus=list(gpus.values()),
    )


def _highest(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)
