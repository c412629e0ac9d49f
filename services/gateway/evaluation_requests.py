"""The door of an evaluation: names become exact rows, the evaluator is asked, and the request is kept as a fact."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltp.bus.rpc import ask
from ltp.contracts.dataset import Split
from ltp.contracts.evaluation import DatasetUnderTest, EvaluationRequested
from ltp.contracts.evaluation_questions import Checked, EvaluationCheck, EvaluationQuery, EvaluationRecord
from ltp.contracts.evaluation_questions import EvaluationRecords as Records
from ltp.contracts.evaluation_spec import ApiModel, CheckpointModel, LocalModel, ModelUnderTest, RunSpec
from ltp.contracts.faults import faults_of
from ltp.contracts.host import HostSeen
from ltp.contracts.values import Name, Ratio, Sha256
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id
from services.gateway import store, store_names


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class DatasetChoice(_Body):
    """Rows by the name of their dataset (its newest version unless one is given), or by the id of an upload."""

    name: Name | None = None
    dataset_id: UUID | None = None
    version: Sha256 | None = None
    split: str | None = Field(default=None, description="Default: `test`, else the only split there is.")


class EvaluationBody(RunSpec):
    """POST /evaluations: one model on one or more datasets; each dataset becomes an evaluation."""

    name: Name | None = None
    model: ModelUnderTest
    datasets: list[DatasetChoice] = Field(min_length=1, max_length=100)
    device_kind: Literal["auto", "cpu", "gpu"] = "auto"
    dry_run: bool = False

    def spec(self) -> RunSpec:
        """How the model is run."""
        return RunSpec.model_validate({name: getattr(self, name) for name in RunSpec.model_fields})


class ResultEvaluation(RunSpec):
    """How the result of an operation is to be evaluated once it is there; `min_accuracy` decides on it by itself."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    datasets: list[DatasetChoice] = Field(min_length=1, max_length=100)
    device_kind: Literal["auto", "cpu", "gpu"] = "auto"
    min_accuracy: Ratio | None = None


class TriggerBody(RunSpec):
    """POST /evaluation/trigger, the call of the first platform: datasets by id, the model by its type."""

    # Clients of the first platform may send more than it read.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    dataset_uuids: list[UUID] = Field(min_length=1, max_length=100)
    model_type: Literal["api", "local_model", "checkpoint"]
    model_path: str | None = Field(default=None, description="A directory; for `api` the model's name.")
    checkpoint_id: UUID | None = None
    preset: Literal["openai", "dashscope"] | None = None
    base_url: str | None = None
    secret: Name | None = None

    def body(self) -> EvaluationBody:
        """The same request in today's words. Raises LtpError INVALID_REQUEST."""
        spec = {name: getattr(self, name) for name in RunSpec.model_fields}
        datasets = [DatasetChoice(dataset_id=dataset_id) for dataset_id in self.dataset_uuids]
        try:
            return EvaluationBody(model=self._model(), datasets=datasets, **spec)
        except ValidationError as error:
            faults = faults_of(error)
            raise LtpError(
                ErrorCode.INVALID_REQUEST, faults, "See POST /api/v1/evaluations for what it takes."
            ) from error

    def _model(self) -> ApiModel | LocalModel | CheckpointModel:
        if self.model_type == "checkpoint":
            if self.checkpoint_id is None:
                raise _missing("checkpoint_id", "checkpoint")
            return CheckpointModel(checkpoint_id=self.checkpoint_id)
        if not self.model_path:
            raise _missing("model_path", self.model_type)
        if self.model_type == "local_model":
            return LocalModel(path=self.model_path)
        preset = None if self.base_url else self.preset or "dashscope"
        return ApiModel(name=self.model_path, preset=preset, base_url=self.base_url, secret=self.secret)


class Accepted(BaseModel):
    """What was asked for, one evaluation a dataset."""

    evaluations: list[EvaluationRecord]
    warnings: list[str]


async def accept(runtime: Runtime, body: EvaluationBody) -> Accepted:
    """Check everything, then keep all of it or nothing."""
    kind = await _device_kind(runtime) if body.device_kind == "auto" else body.device_kind
    model = body.model
    if isinstance(model, LocalModel):
        models = runtime.settings.root() / "models"  # an absolute path stays as it is
        adapter = None if model.adapter is None else str(models / model.adapter)
        model = LocalModel(path=str(models / model.path), adapter=adapter)
    requests = [
        EvaluationRequested(
            evaluation_id=new_id(),
            name=body.name,
            model=model,
            dataset=await _dataset(runtime, choice),
            spec=body.spec(),
            device_kind=kind,
        )
        for choice in body.datasets
    ]
    warnings = [warning for request in requests for warning in await _checked(runtime, request)]
    if not body.dry_run:
        async with runtime.database.unit() as unit:
            for request in requests:
                unit.emit(request, about=request.evaluation_id)
    return Accepted(evaluations=[requested(request) for request in requests], warnings=sorted(set(warnings)))


async def foreseen(runtime: Runtime, asked: dict[str, Any], path: str) -> dict[str, Any]:
    """Evaluations of a model that is yet to be made, with their ids. Raises INVALID_REQUEST, or what is wrong with a dataset."""
    try:
        body = ResultEvaluation.model_validate(asked)
    except ValidationError as error:
        faults = faults_of(error)
        hint = "It takes datasets: [{name, split}], scorer, sampling, max_rows and min_accuracy."
        raise LtpError(ErrorCode.INVALID_REQUEST, f"evaluate: {faults}", hint) from error
    spec = RunSpec.model_validate({name: getattr(body, name) for name in RunSpec.model_fields})
    kind = await _device_kind(runtime) if body.device_kind == "auto" else body.device_kind
    requests = [
        EvaluationRequested(
            evaluation_id=new_id(),
            name=None,
            model=LocalModel(path=path),
            dataset=await _dataset(runtime, choice),
            spec=spec,
            device_kind=kind,
        )
        for choice in body.datasets
    ]
    return {"evaluations": [r.model_dump(mode="json") for r in requests], "min_accuracy": body.min_accuracy}


async def find(runtime: Runtime, evaluation_id: UUID) -> EvaluationRecord:
    """One evaluation, also in the moment before the evaluator heard of it."""
    try:
        query = EvaluationQuery(evaluation_id=evaluation_id, limit=1)
        return (await ask(runtime.client, "evaluator", "evaluations", query, Records)).evaluations[0]
    except LtpError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        said = await _said(runtime, evaluation_id)
        if said is None:
            raise
        return said


def requested(event: EvaluationRequested) -> EvaluationRecord:
    """A request as an evaluation that nobody began yet."""
    model = event.model
    name = model.name if isinstance(model, ApiModel) else model.path if isinstance(model, LocalModel) else None
    return EvaluationRecord(
        evaluation_id=event.evaluation_id,
        name=event.name,
        state="requested",
        model=name or str(getattr(model, "checkpoint_id", "")),
        model_kind=model.kind,
        dataset=event.dataset,
        spec=event.spec.model_dump(mode="json"),
        scorer=event.spec.scorer.name,
        requested_at=_instant(event.evaluation_id),
    )


async def _said(runtime: Runtime, evaluation_id: UUID) -> EvaluationRecord | None:
    """The request in our own outbox, which is where it began."""
    rows = await store.said_about(runtime.database.engine, evaluation_id)
    for subject, body in rows:
        if subject == EvaluationRequested.subject:
            return requested(EvaluationRequested.model_validate(body))
    if not rows:
        return None
    return EvaluationRecord(
        evaluation_id=evaluation_id,
        state="requested",
        model="",
        model_kind="local_model",
        spec={},
        scorer="",
        requested_at=_instant(evaluation_id),
    )


async def _checked(runtime: Runtime, request: EvaluationRequested) -> Sequence[str]:
    """The evaluator's warnings; its refusal is raised. When it is down the request waits for it and may fail then."""
    try:
        question = EvaluationCheck(request=request)
        return (await ask(runtime.client, "evaluator", "check-evaluation", question, Checked, timeout=15.0)).warnings
    except LtpError as error:
        if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
            raise
        return ["The evaluator does not answer now; the request waits for it."]


async def _dataset(runtime: Runtime, choice: DatasetChoice) -> DatasetUnderTest:
    engine = runtime.database.engine
    if choice.dataset_id is not None:
        row = await store.dataset(engine, choice.dataset_id)
        what = f"dataset {choice.dataset_id}"
    elif choice.name is not None:
        row = await store_names.frozen_version(engine, choice.name, choice.version)
        what = f"frozen dataset {choice.name}"
    else:
        raise LtpError(ErrorCode.INVALID_REQUEST, "A dataset needs a name or a dataset_id.", "Give one of them.")
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no {what}.", "`ltp dataset list` shows what there is.")
    if row["state"] != "frozen":
        message = f"Dataset {row['name']} is {row['state']}, not frozen."
        raise LtpError(ErrorCode.DATASET_NOT_READY, message, "`ltp dataset list` shows why.")
    splits: dict[str, Any] = row["splits"]
    name = choice.split or ("test" if "test" in splits else next(iter(splits)) if len(splits) == 1 else None)
    if name is None or name not in splits:
        message = f"Dataset {row['name']} has no split {name or 'test'!r}; it has {', '.join(sorted(splits))}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Name one of its splits.")
    split = Split.model_validate(splits[name])
    return DatasetUnderTest(name=row["name"], version=row["version"], split_name=name, split=split)


async def _device_kind(runtime: Runtime) -> Literal["cpu", "gpu"]:
    """A GPU where a host has one."""
    newest = await store.newest_events(runtime.database.engine, HostSeen.subject, 50)
    seen = [HostSeen.model_validate(data) for data in newest]
    return "gpu" if any(device.kind == "gpu" for host in seen for device in host.devices) else "cpu"


def _instant(identifier: UUID) -> datetime:
    """When a UUIDv7 was made."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def _missing(field: str, kind: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_REQUEST, f"model_type {kind!r} needs {field}.", f"Send {field}.")
