"""What would make a job fit that does not: every change named here was tried on the memory model first."""

from __future__ import annotations

from collections.abc import Sequence

from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import Architecture, parameters
from services.planner.candidates import USABLE, HostFacts, Pool, gib, largest, per_device, pools_of, smallest

_LORA_LEVER = 16
_SHORTEST = 64


def does_not_fit(recipe: Recipe, arch: Architecture, pool: Pool, hosts: Sequence[HostFacts]) -> LtpError:
    """The refusal: the smallest need against the largest device, and what would help."""
    least = smallest(recipe, arch, pool)
    need = least.estimate.upper_bytes
    message = (
        f"The smallest plan ({least.name}) needs up to {gib(need)} per device, most for {largest(least.estimate)}; "
        f"the largest {pool.kind} offers {gib(pool.usable_bytes)} of its {gib(pool.memory_bytes)}."
    )
    levers = _levers(recipe, arch, pool, hosts)
    memory = f"a device with {gib(int(need / USABLE[pool.kind]))}"
    return LtpError(ErrorCode.PLAN_DOES_NOT_FIT, message, f"It would fit with {', or '.join([*levers, memory])}.")


def _levers(recipe: Recipe, arch: Architecture, pool: Pool, hosts: Sequence[HostFacts]) -> list[str]:
    """Changes that were tried and do make it fit, the mildest first; a smaller model where none of them does."""
    training = recipe.training
    adapted = recipe.model_copy(update={"training": training.model_copy(update={"lora_rank": _LORA_LEVER})})
    levers = _more_devices(recipe, arch, pool, hosts)
    levers += [f"training.max_length: {length}" for length in _fitting_lengths(recipe, arch, pool)]
    if not training.lora_rank:
        if _fits(adapted, arch, pool):
            levers.append(f"training.lora_rank: {_LORA_LEVER}")
        else:
            lengths = _fitting_lengths(adapted, arch, pool)
            levers += [f"training.lora_rank: {_LORA_LEVER} and training.max_length: {n}" for n in lengths]
    return levers or [f"a smaller model than this one of {parameters(arch) / 1e9:.2f} billion parameters"]


def _fits(recipe: Recipe, arch: Architecture, pool: Pool) -> bool:
    return smallest(recipe, arch, pool).estimate.upper_bytes <= pool.usable_bytes


def _more_devices(recipe: Recipe, arch: Architecture, pool: Pool, hosts: Sequence[HostFacts]) -> list[str]:
    most = max(sum(device.kind == pool.kind for device in host.devices) for host in hosts)
    for count in range(pool.devices + 1, most + 1):
        wider = max(pools_of(hosts, pool.kind, count), key=lambda found: found.memory_bytes)
        if per_device(recipe, 1) % count == 0 and _fits(recipe, arch, wider):
            return [f"resources.devices: {count}"]
    return []


def _fitting_lengths(recipe: Recipe, arch: Architecture, pool: Pool) -> list[int]:
    """The longest halving of max_length that fits, if any that still leaves room for a prompt."""
    shortest = max(_SHORTEST, 2 * recipe.reinforcement.max_response_length if recipe.reinforcement else 0)
    length = recipe.training.max_length // 2
    while length >= shortest:
        shorter = recipe.model_copy(update={"training": recipe.training.model_copy(update={"max_length": length})})
        if _fits(shorter, arch, pool):
            return [length]
        length //= 2
    return []
