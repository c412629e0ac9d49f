"""What would make a job fit that does not: every change named here was tried on the memory model first, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ltp.contracts.plan_report import Remedy
from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.hardware import TABLE
from ltp.core.model_config import Architecture, parameters
from ltp.planning.candidates import Candidate, gib, largest, samples_of
from ltp.planning.pools import USABLE, HostFacts, Kind, Pool, described_host, pools_of
from ltp.planning.search import Found, misses, search

_LORA_LEVER = 16
_SHORTEST = 64
# A model is said to fit when its states do: 16 bytes a parameter, and as much again for a quarter of them.
_BYTES_EACH = 20


def refusal(recipe: Recipe, arch: Architecture, hosts: Sequence[HostFacts], found: Found) -> LtpError:
    """The smallest need against the largest device, or the rule that stands against all; and what would help."""
    least, nearly = found.least, [rejected for rejected in found.rejected if rejected.nearly]
    if least is None or nearly:
        first = min(nearly, key=lambda rejected: rejected.excess, default=next(misses(found), None))
        what = "nothing was left to try" if first is None else f"{first.candidate}: {first.reason}"
        hint = "Change what is named there; `ltp plan explain RECIPE` lists every reason against every plan."
        return LtpError(ErrorCode.PLAN_DOES_NOT_FIT, f"No plan can run. The nearest: {what}.", hint)
    pool, need = least.pool, least.estimate.upper_bytes
    held = (
        "" if pool.free_bytes >= int(pool.memory_bytes * USABLE[pool.kind]) else ", of which other programs hold some"
    )
    message = (
        f"The smallest plan ({least.name}) needs up to {gib(need)} per device, most for {largest(least.estimate)}; "
        f"the largest {pool.kind} offers {gib(pool.usable_bytes)} of its {gib(pool.memory_bytes)}{held}."
    )
    changes = [remedy.change for remedy in remedies_for(recipe, arch, hosts, found)]
    return LtpError(ErrorCode.PLAN_DOES_NOT_FIT, message, f"It would fit with {', or '.join(changes)}.")


def remedies_for(recipe: Recipe, arch: Architecture, hosts: Sequence[HostFacts], found: Found) -> list[Remedy]:
    """Changes that do make it fit, the mildest first; a smaller model where nothing else does."""
    least = found.least
    if least is None:
        return []
    pool = least.pool
    changes = [*_more_devices(recipe, arch, pool, hosts), *_shorter(recipe, arch, pool)]
    if not recipe.training.lora_rank:
        changes += _adapters(recipe, arch, pool)
    if not changes:
        changes = [_smaller_model(arch, pool)]
    return [*changes, _larger_device(recipe, arch, pool, least)]


def _fits(recipe: Recipe, arch: Architecture, pool: Pool) -> bool:
    return bool(search(recipe, arch, [pool]).fitting)


def with_training(recipe: Recipe, **changes: int) -> Recipe:
    """The recipe with other hyper-parameters."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def _more_devices(recipe: Recipe, arch: Architecture, pool: Pool, hosts: Sequence[HostFacts]) -> Iterator[Remedy]:
    kind: Kind = pool.kind
    most = max(sum(device.kind == kind for device in host.devices) for host in hosts)
    for count in range(pool.devices + 1, most + 1):
        wider = max(
            pools_of(hosts, kind, count, recipe.resources.hosts), key=lambda found: found.usable_bytes, default=None
        )
        if wider is None or recipe.training.batch_size * samples_of(recipe) % count:
            continue
        if _fits(recipe, arch, wider):
            price = f"{count} devices instead of {pool.devices}, and most of their speed"
            yield Remedy(change=f"resources.devices: {count}", field="resources.devices", value=count, price=price)
            return


def _shorter(recipe: Recipe, arch: Architecture, pool: Pool) -> Iterator[Remedy]:
    """The longest halving of max_length that fits, if any that still leaves room for a prompt."""
    section = recipe.reinforcement
    shortest = max(_SHORTEST, 2 * section.max_response_length if section else 0)
    length = recipe.training.max_length // 2
    while length >= shortest:
        if _fits(with_training(recipe, max_length=length), arch, pool):
            price = f"rows longer than {length} tokens lose their end"
            name = "training.max_length"
            yield Remedy(change=f"{name}: {length}", field=name, value=length, price=price)
            return
        length //= 2


def _adapters(recipe: Recipe, arch: Architecture, pool: Pool) -> Iterator[Remedy]:
    adapted = with_training(recipe, lora_rank=_LORA_LEVER)
    name, price = "training.lora_rank", f"adapters of rank {_LORA_LEVER} are trained, the weights stay as they are"
    if _fits(adapted, arch, pool):
        yield Remedy(change=f"{name}: {_LORA_LEVER}", field=name, value=_LORA_LEVER, price=price)
        return
    for shorter in _shorter(adapted, arch, pool):
        change = f"{name}: {_LORA_LEVER} and {shorter.change}"
        yield Remedy(change=change, field=name, value=_LORA_LEVER, price=f"{price}, and {shorter.price}")


def _smaller_model(arch: Architecture, pool: Pool) -> Remedy:
    about = pool.usable_bytes * pool.devices / _BYTES_EACH / 1e9
    change = f"a smaller model than this one of {parameters(arch) / 1e9:.2f} billion parameters"
    return Remedy(
        change=change, price=f"about {about:.1f} billion parameters train in full on {pool.devices} {pool.model}"
    )


def _larger_device(recipe: Recipe, arch: Architecture, pool: Pool, least: Candidate) -> Remedy:
    need = int(least.estimate.upper_bytes / USABLE[pool.kind])
    price = f"{gib(need - pool.memory_bytes)} more than it has"
    if pool.kind == "gpu":
        rows = sorted((row for row in TABLE if row.kind == "gpu" and row.has_bf16), key=lambda row: row.hourly_dollars)
        for row in rows:
            bigger = pools_of([described_host(f"{row.name}:{pool.devices}")], "gpu", pool.devices)[0]
            if row.memory_bytes >= need and _fits(recipe, arch, bigger):
                price = f"{pool.devices} {row.name} would do, at about {row.hourly_dollars * pool.devices:.2f} dollars an hour"
                break
    return Remedy(change=f"a device with {gib(need)}", price=price)
