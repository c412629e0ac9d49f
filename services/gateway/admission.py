"""The door of a job: the recipe is resolved to exact versions and planned once before it is accepted."""

from __future__ import annotations

import structlog

from ltp.bus.rpc import ask
from ltp.contracts.dataset import DatasetVersion, GateAnswer, GateAsked
from ltp.contracts.plan import PlanRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway import store


async def resolve(runtime: Runtime, recipe: Recipe) -> tuple[Recipe, DatasetVersion]:
    """The recipe with its dataset's version and its model's absolute path spelt out: what it means can no longer change."""
    source = recipe.dataset
    row = await store.frozen_version(runtime.database.engine, source.name, source.version)
    if row is None:
        wanted = source.name if source.version is None else f"{source.name} in version {source.version}"
        raise LtpError(
            ErrorCode.DATASET_NOT_READY,
            f"There is no frozen dataset {wanted}.",
            f"Add it with `ltp dataset add FILE --name {source.name}`; `ltp dataset list` shows what there is.",
        )
    dataset = DatasetVersion(name=row["name"], version=row["version"], rows=row["rows"], splits=row["splits"])
    path = runtime.settings.root() / "models" / recipe.model.path  # an absolute path stays as it is
    resolved = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"path": str(path)}),
            "dataset": source.model_copy(update={"version": dataset.version}),
        }
    )
    return resolved, dataset


async def preview(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> Plan:
    """What the planner would choose now. Raises its refusal."""
    return await ask(runtime.client, "planner", "plan", PlanRequest(recipe=recipe, dataset=dataset), Plan, timeout=15.0)


async def admit(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> None:
    """Refuse what cannot work. A planner that does not answer is no reason to refuse: the job is planned when it is back."""
    try:
        await preview(runtime, recipe, dataset)
    except LtpError as error:
        if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
            raise
    await _check_mask(runtime, recipe, dataset)


async def _check_mask(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> None:
    """Refuse data of which nothing, or everything, would be trained on. Where nobody can tell, the job is not held up."""
    asked = GateAsked(recipe=recipe, dataset=dataset)
    try:
        await ask(runtime.client, "dataset", "gate", asked, GateAnswer, timeout=25.0)
    except LtpError as error:
        if error.code is ErrorCode.DATASET_MASK_EMPTY:
            raise
        structlog.get_logger().warning("the loss mask was not checked", code=error.code, recipe=recipe.name)
