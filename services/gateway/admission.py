"""The door of a job: the recipe is resolved to exact versions and planned once before it is accepted."""

from __future__ import annotations

import asyncio
from typing import cast
from uuid import UUID

import structlog

from ltp.bus.rpc import ask
from ltp.contracts.dataset import DatasetVersion, GateAnswer, GateAsked
from ltp.contracts.dedup import LeakWarnings, VersionRef
from ltp.contracts.job import JobOptions, JobSubmitted
from ltp.contracts.plan import PlanRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.recipe_check import RecipeCheckAsked, RecipeChecked
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import sought_in
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from services.gateway import store, store_names
from services.gateway.repeats import own_key
from services.gateway.reward_files import with_reward
from services.gateway.settings import GatewaySettings


async def resolve(runtime: Runtime, recipe: Recipe) -> tuple[Recipe, DatasetVersion]:
    """The recipe with its dataset's version and its model's absolute path spelt out: what it means can no longer change."""
    source = recipe.dataset
    row = await store_names.frozen_version(runtime.database.engine, source.name, source.version)
    if row is None:
        wanted = source.name if source.version is None else f"{source.name} in version {source.version}"
        raise LtpError(
            ErrorCode.DATASET_NOT_READY,
            f"There is no frozen dataset {wanted}.",
            f"Add it with `ltp dataset add FILE --name {source.name}`; `ltp dataset list` shows what there is.",
        )
    told = {key: row[key] for key in ("name", "version", "rows", "splits")}
    dataset = DatasetVersion.model_validate({**told, "belongs_to": row["project"]})
    models = runtime.settings.root() / "models"  # an absolute path stays as it is
    critic = recipe.critic
    if critic is not None and critic.model is not None:
        critic = critic.model_copy(update={"model": str(models / critic.model)})
    resolved = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"path": str(models / recipe.model.path)}),
            "dataset": source.model_copy(update={"version": dataset.version}),
            "critic": critic,
        }
    )
    return await asyncio.to_thread(with_reward, resolved, cast(GatewaySettings, runtime.settings)), dataset


async def preview(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> Plan:
    """What the planner would choose now. Raises its refusal."""
    return await ask(runtime.client, "planner", "plan", PlanRequest(recipe=recipe, dataset=dataset), Plan, timeout=15.0)


async def admit(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> None:
    """Refuse what cannot work. A planner that does not answer is no reason to refuse: the job is planned when it is back."""
    plan = None
    try:
        plan = await preview(runtime, recipe, dataset)
    except LtpError as error:
        if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
            raise
    await try_own(runtime, recipe, dataset, plan)
    await _check_mask(runtime, recipe, dataset)


async def try_own(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion, plan: Plan | None) -> list[str]:
    """Have the recipe's own overrides and reward tried on real rows; returns warnings. Foreign code is never let in untried.

    Raises INVALID_RECIPE, REWARD_FAILED, DEPENDENCY_MISSING, SERVICE_UNAVAILABLE.
    """
    own_reward = recipe.reinforcement is not None and recipe.reinforcement.reward is not None
    if not (recipe.overrides or recipe.tracking or own_reward):
        return []
    asked = RecipeCheckAsked(recipe=recipe, dataset=dataset, plan=plan)
    return (await ask(runtime.client, "runner", "check-recipe", asked, RecipeChecked, timeout=110.0)).warnings


async def _check_mask(runtime: Runtime, recipe: Recipe, dataset: DatasetVersion) -> None:
    """Refuse data of which nothing, or everything, would be trained on. Where nobody can tell, the job is not held up."""
    asked = GateAsked(recipe=recipe, dataset=dataset)
    try:
        await ask(runtime.client, "dataset", "gate", asked, GateAnswer, timeout=25.0)
    except LtpError as error:
        if error.code in {ErrorCode.DATASET_MASK_EMPTY, ErrorCode.DATASET_ROW_INVALID}:
            raise
        structlog.get_logger().warning("the loss mask was not checked", code=error.code, recipe=recipe.name)


async def leak_warnings(runtime: Runtime, recipe: Recipe, *, refuse: bool) -> list[str]:
    """What the newest leak checks of the recipe's dataset found. Raises CONFLICT for a finding where `refuse` asks for it."""
    target = VersionRef(name=recipe.dataset.name, version=recipe.dataset.version, project=sought_in())
    try:
        found = (await ask(runtime.client, "dataset", "leak-warnings", target, LeakWarnings)).warnings
    except LtpError as error:
        # A dataset that is not there is refused by `submit`; a service that is down holds nobody up.
        structlog.get_logger().warning("leaks were not asked for", code=error.code, recipe=recipe.name)
        return []
    if found and refuse:
        raise LtpError(ErrorCode.CONFLICT, " ".join(found), "Take the rows out, or submit without refuse_leaks.")
    return found


async def submit(runtime: Runtime, recipe: Recipe, options: JobOptions, idempotency_key: str | None = None) -> UUID:
    """Check a recipe, and say that it was submitted; returns the job. A key that was used gives the job it was used for."""
    idempotency_key = None if idempotency_key is None else own_key(options.project, idempotency_key)
    resolved, _ = await resolve(runtime, recipe)
    known = await _known(runtime, idempotency_key, resolved, options)
    if known is not None:
        return known
    event = await admit_job(runtime, resolved, new_id(), options)
    async with runtime.database.unit() as unit:
        added = await record_job(unit, event, idempotency_key)
    # Somebody else was faster with the same key.
    known = event.job_id if added else await _known(runtime, idempotency_key, resolved, options)
    assert known is not None
    return known


async def admit_job(runtime: Runtime, recipe: Recipe, job_id: UUID, options: JobOptions | None = None) -> JobSubmitted:
    """The event that makes a recipe a job, if it can work. Whoever asks, this is the door; `record_job` lets it through."""
    resolved, dataset = await resolve(runtime, recipe)
    await admit(runtime, resolved, dataset)
    return JobSubmitted(
        job_id=job_id,
        recipe=resolved,
        recipe_hash=resolved.hash(),
        dataset=dataset,
        options=options or JobOptions(),
    )


async def record_job(unit: Unit, event: JobSubmitted, key: str | None = None) -> bool:
    """Note an admitted job and say so; False when its id or its idempotency key is known."""
    row = {
        "job_id": event.job_id,
        "name": event.recipe.name,
        "recipe": event.recipe.settings(),
        "recipe_hash": event.recipe_hash,
        "dataset": event.dataset.model_dump(mode="json"),
        "options": event.options.model_dump(mode="json"),
        "idempotency_key": key,
        "submitted_at": now(),
    }
    added = await store.add_job(unit, row)
    if added:
        unit.emit(event, about=event.job_id)
    return added


async def _known(runtime: Runtime, key: str | None, recipe: Recipe, options: JobOptions) -> UUID | None:
    """The job an idempotency key stands for; a key used for another request is an error."""
    if key is None:
        return None
    row = await store.job_by_key(runtime.database.engine, key)
    if row is None:
        return None
    if row["recipe_hash"] != recipe.hash() or JobOptions.model_validate(row["options"]) != options:
        raise LtpError(
            ErrorCode.CONFLICT,
            f"Idempotency-Key {key!r} was used for another recipe or other options (job {row['job_id']}).",
            "Use a new key for a new request.",
        )
    job_id: UUID = row["job_id"]
    return job_id
