"""What the gateway hears: every event and every line of metrics, in order, folded into what its API answers from."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.streams import EVENTS, TELEMETRY
from ltp.bus.subscriptions import heard_in_order_by, said
from ltp.contracts import REGISTRY, work
from ltp.contracts.admission import AdmissionRefused, TelemetryPruned
from ltp.contracts.checkpoint_keeping import CheckpointPinRequested, CheckpointRemovalRequested
from ltp.contracts.dataset import (
    DatasetDeletionRequested,
    DatasetDerivationRequested,
    DatasetMarked,
    DatasetRequested,
    DatasetUploaded,
    ProjectQuotaSet,
)
from ltp.contracts.dedup import DedupApplyRequested, DedupRequested, LeakCheckRequested
from ltp.contracts.evaluation import (
    EvaluationCancellationRequested,
    EvaluationRequested,
    EvaluationRescoreRequested,
    EvaluationUploaded,
)
from ltp.contracts.host import HostCordoned, HostGivenUp, HostLabelled, HostUncordoned
from ltp.contracts.host_access import HostRegistered, HostRemoved, HostSetupRequested, HostTestRequested, HostTrusted
from ltp.contracts.identity import AuditRecorded
from ltp.contracts.job import JobCancellationRequested, JobPauseRequested, JobResumeRequested, JobSubmitted
from ltp.contracts.operation import (
    OperationAccepted,
    OperationCancellationRequested,
    OperationPauseRequested,
    OperationRejected,
    OperationRequested,
    OperationResumeRequested,
)
from ltp.contracts.pipeline import (
    PipelineArmingRequested,
    PipelineDisarmingRequested,
    PipelineRunCancellationRequested,
    PipelineRunResumeRequested,
    PipelineRunSubmitted,
)
from ltp.contracts.schedule import ScheduleChangeRequested, ScheduleSubmitted
from ltp.contracts.search import EmbeddingRequested
from ltp.contracts.telemetry import StepMetrics
from ltp.contracts.webhook import WebhookDisabled
from ltp.store.clock import now
from ltp.store.envelope import event_id_of
from services.gateway import store, store_owners, tenancy, views
from services.gateway.news import NEWS_CHANNEL

SERVICE = "gateway"
router = NatsRouter()

for event in (
    EvaluationRequested,
    EvaluationUploaded,
    EvaluationCancellationRequested,
    EvaluationRescoreRequested,
    JobSubmitted,
    JobPauseRequested,
    JobResumeRequested,
    JobCancellationRequested,
    DatasetUploaded,
    EmbeddingRequested,
    DedupRequested,
    DedupApplyRequested,
    LeakCheckRequested,
    DatasetRequested,
    DatasetDerivationRequested,
    DatasetDeletionRequested,
    DatasetMarked,
    ProjectQuotaSet,
    HostRegistered,
    HostRemoved,
    HostTestRequested,
    HostSetupRequested,
    HostTrusted,
    HostLabelled,
    HostCordoned,
    HostUncordoned,
    HostGivenUp,
    *work.REQUESTS,
    *(AdmissionRefused, TelemetryPruned, AuditRecorded, WebhookDisabled),
    *(PipelineRunSubmitted, PipelineRunCancellationRequested, PipelineRunResumeRequested),
    *(PipelineArmingRequested, PipelineDisarmingRequested, ScheduleSubmitted, ScheduleChangeRequested),
):
    router.publisher(**said(event))

for event in (
    OperationRequested,
    OperationCancellationRequested,
    OperationPauseRequested,
    OperationResumeRequested,
    OperationAccepted,
    OperationRejected,
    CheckpointPinRequested,
    CheckpointRemovalRequested,
):
    router.publisher(**said(event))

Raw = Annotated[Any, Context("message")]


@router.subscriber(**heard_in_order_by(SERVICE, EVENTS))
async def fold_event(body: dict[str, Any], message: Raw, unit: InboxUnit) -> None:
    headers, subject = message.headers or {}, message.raw_message.subject
    at = _instant(headers.get("ce-time"))
    job_id = _uuid(body.get("job_id"))
    project = await _project_of(unit, subject, body, headers)
    await store.add_event(
        unit,
        {
            "event_id": event_id_of(headers) or unit.cause,
            "subject": subject,
            "job_id": job_id,
            "about": headers.get("ce-subject"),
            "cause": _uuid(headers.get("ce-causationid")),
            "at": at,
            "data": body,
            "project": project,
            "actor": headers.get("ce-actor"),
        },
    )
    kind = REGISTRY.get(subject)
    if kind is not None:
        event = kind.model_validate(body)
        if job_id is not None:
            await store.change_job(unit, job_id, views.job_changes(event, at), views.job_state(event))
        changes = views.dataset_changes(event)
        if changes is not None:
            await store.change_dataset(unit, UUID(str(body["dataset_id"])), changes)
    await unit.notify(NEWS_CHANNEL)


@router.subscriber(**heard_in_order_by(SERVICE, TELEMETRY))
async def keep_step(step: StepMetrics, unit: InboxUnit) -> None:
    await store.add_step(unit, step)
    await unit.notify(NEWS_CHANNEL)


async def _project_of(unit: InboxUnit, subject: str, body: dict[str, Any], headers: dict[str, str]) -> str | None:
    """Whose event it is: the door says so, or one of the ids has an owner; then all its ids have."""
    if subject == AuditRecorded.subject:
        return headers.get("ce-project")
    ids = tenancy.told_of(body, headers.get("ce-subject"))
    project = headers.get("ce-project") or await store_owners.owner_in(unit, ids)
    if project is not None:
        await store_owners.claim(unit, ids, project)
    return project


def _instant(text: str | None) -> datetime:
    return now() if text is None else datetime.fromisoformat(text)


def _uuid(text: Any) -> UUID | None:
    try:
        return None if text is None else UUID(str(text))
    except ValueError:
        return None
