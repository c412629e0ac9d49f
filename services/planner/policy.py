"""Chooses the configuration of a job: the fastest that surely fits, with the reasons against every other."""

from __future__ import annotations

from collections.abc import Sequence

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, PlanRejection
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import Architecture, parameters
from services.planner.candidates import (
    Candidate,
    HostFacts,
    Kind,
    Pool,
    candidates_of,
    gib,
    largest,
    per_device,
    pools_of,
)
from services.planner.levers import does_not_fit

# A processor's cores are busy with a few sequences; more of them only take memory.
MAX_CPU_MICRO_BATCH = 8
MAX_REJECTIONS = 8


def choose(recipe: Recipe, arch: Architecture, hosts: Sequence[HostFacts]) -> Plan:
    """The plan for a recipe on the largest suitable devices of one host.

    Prefers a GPU where a host has one, no recomputation, and the largest micro batch, in this order, among the
    candidates whose upper bound fits. The caller checks that the dataset has at least `batch_size` rows.
    Raises LtpError: NO_HOST, INVALID_RECIPE (the recipe contradicts itself or the model), PLAN_DOES_NOT_FIT.
    """
    pool = _pool(recipe, hosts)
    _check(recipe, arch, pool)
    candidates = candidates_of(recipe, arch, pool)
    fitting = [candidate for candidate in candidates if candidate.estimate.upper_bytes <= pool.usable_bytes]
    if not fitting:
        raise does_not_fit(recipe, arch, pool, hosts)
    chosen = min(fitting, key=lambda candidate: _rank(candidate, recipe, pool))
    return Plan(
        device_kind=pool.kind,
        devices=pool.devices,
        micro_batch_size=chosen.micro_batch,
        gradient_checkpointing=chosen.checkpointing,
        parameters=parameters(arch),
        memory_bytes=chosen.estimate.bytes,
        memory_upper_bytes=chosen.estimate.upper_bytes,
        device_memory_bytes=pool.memory_bytes,
        memory_components=chosen.estimate.components,
        rejected=_rejections(chosen, candidates, recipe, pool),
    )


def _pool(recipe: Recipe, hosts: Sequence[HostFacts]) -> Pool:
    wanted, count = recipe.resources.device_kind, recipe.resources.devices
    if not hosts:
        raise LtpError(ErrorCode.NO_HOST, "No host is registered.", "Add one with `ltp host add`, or start `ltp up`.")
    has_gpu = any(device.kind == "gpu" for host in hosts for device in host.devices)
    kind: Kind = ("gpu" if has_gpu else "cpu") if wanted == "auto" else wanted
    pools = pools_of(hosts, kind, count)
    if not pools:
        most = max(sum(device.kind == kind for device in host.devices) for host in hosts)
        hint = f"Set resources.devices to {most} or less" if most else "Use resources.device_kind: auto"
        message = f"The recipe asks for {count} {kind} device(s) on one host, and the best host has {most}."
        raise LtpError(ErrorCode.NO_HOST, message, f"{hint}, or add a host.")
    return max(pools, key=lambda pool: pool.memory_bytes)


def _check(recipe: Recipe, arch: Architecture, pool: Pool) -> None:
    """What verl would refuse late or round off in silence (docs/training.md)."""
    training, section = recipe.training, recipe.reinforcement
    if training.max_length > arch.max_positions:
        what = f"training.max_length is {training.max_length}, and the model has {arch.max_positions} positions"
        raise _contradiction(what, f"Set it to {arch.max_positions} or less.")
    if section is not None and section.max_response_length >= training.max_length:
        what = f"reinforcement.max_response_length {section.max_response_length} leaves no room for a prompt"
        raise _contradiction(what, f"Keep it below training.max_length, which is {training.max_length}.")
    sequences = training.batch_size * (section.samples_per_prompt if section else 1)
    if sequences % pool.devices:
        what = f"{sequences} sequences a step cannot be shared evenly by {pool.devices} devices"
        raise _contradiction(what, f"Make training.batch_size a multiple of {pool.devices}.")
    micro, share = recipe.resources.micro_batch_size, per_device(recipe, pool.devices)
    if micro is not None and share % micro:
        what = f"resources.micro_batch_size {micro} does not divide the {share} sequences of each device"
        raise _contradiction(what, "Choose a divisor, or leave it out.")


def _contradiction(what: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_RECIPE, f"The recipe cannot run: {what}.", hint)


def _oversized(candidate: Candidate, recipe: Recipe, pool: Pool) -> bool:
    asked = recipe.resources.micro_batch_size is not None
    return pool.kind == "cpu" and not asked and candidate.micro_batch > MAX_CPU_MICRO_BATCH


def _rank(candidate: Candidate, recipe: Recipe, pool: Pool) -> tuple[bool, bool, int]:
    """Smaller is better."""
    return _oversized(candidate, recipe, pool), candidate.checkpointing, -candidate.micro_batch


def _rejections(chosen: Candidate, candidates: list[Candidate], recipe: Recipe, pool: Pool) -> list[PlanRejection]:
    losers = [candidate for candidate in candidates if candidate is not chosen]
    said = [PlanRejection(candidate=loser.name, reason=_reason(loser, chosen, recipe, pool)) for loser in losers]
    if len(said) <= MAX_REJECTIONS:
        return said
    rest = len(said) - MAX_REJECTIONS + 1
    summary = PlanRejection(candidate=f"{rest} more", reason="they do not fit, or are slower than the chosen one")
    return [*said[: MAX_REJECTIONS - 1], summary]


def _reason(loser: Candidate, chosen: Candidate, recipe: Recipe, pool: Pool) -> str:
    if loser.estimate.upper_bytes > pool.usable_bytes:
        need, offer = gib(loser.estimate.upper_bytes), gib(pool.usable_bytes)
        return f"needs up to {need} of the {offer} that the device offers, most for {largest(loser.estimate)}"
    if _oversized(loser, recipe, pool):
        return f"fits, but more than {MAX_CPU_MICRO_BATCH} sequences at a time make a processor no faster"
    if loser.checkpointing and not chosen.checkpointing:
        return "fits, but recomputes the activations, and there is memory enough to keep them"
    return "fits, but smaller micro batches keep the device less busy"
