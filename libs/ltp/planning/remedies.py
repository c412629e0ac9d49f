"""What would make a job fit that does not: every change named here was tried on the memory model first, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ltp.contracts.plan_report import Remedy
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Saying
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.hardware import TABLE
from ltp.core.model_config import Architecture, parameters
from ltp.planning.candidates import Candidate, gib, largest, samples_of
from ltp.planning.pools import USABLE, HostFacts, Kind, Pool, described_host, pools_of
from ltp.planning.sayings import english, say
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


def _setting(field: str, value: int, price: Saying) -> Remedy:
    return _remedy(say("set_field", field=field, value=value), price, field, value)


def _remedy(change: Saying, price: Saying, field: str | None = None, value: int | None = None) -> Remedy:
    words = english(change), english(price)
    return Remedy(change=words[0], price=words[1], field=field, value=value, change_said=change, price_said=price)


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
            price = say("price_devices", count=count, before=pool.devices)
            yield _setting("resources.devices", count, price)
            return


def _shorter(recipe: Recipe, arch: Architecture, pool: Pool) -> Iterator[Remedy]:
    """The longest halving of max_length that fits, if any that still leaves room for a prompt."""
    section = recipe.reinforcement
    shortest = max(_SHORTEST, 2 * section.max_response_length if section else 0)
    length = recipe.training.max_length // 2
    while length >= shortest:
        if _fits(with_training(recipe, max_length=length), arch, pool):
            yield _setting("training.max_length", length, say("price_shorter", length=length))
            return
        length //= 2


def _adapters(recipe: Recipe, arch: Architecture, pool: Pool) -> Iterator[Remedy]:
    adapted = with_training(recipe, lora_rank=_LORA_LEVER)
    name = "training.lora_rank"
    if _fits(adapted, arch, pool):
        yield _setting(name, _LORA_LEVER, say("price_adapters", rank=_LORA_LEVER))
        return
    for shorter in _shorter(adapted, arch, pool):
        change = say("set_two", field=name, value=_LORA_LEVER, other=shorter.field, length=shorter.value)
        price = say("price_adapters_shorter", rank=_LORA_LEVER, length=shorter.value)
        yield _remedy(change, price, name, _LORA_LEVER)


def _smaller_model(arch: Architecture, pool: Pool) -> Remedy:
    about = pool.usable_bytes * pool.devices / _BYTES_EACH / 1e9
    change = say("smaller_model", billions=f"{parameters(arch) / 1e9:.2f}")
    return _remedy(change, say("price_model", billions=f"{about:.1f}", count=pool.devices, model=pool.model))


def _larger_device(recipe: Recipe, arch: Architecture, pool: Pool, least: Candidate) -> Remedy:
    need = int(least.estimate.upper_bytes / USABLE[pool.kind])
    price = say("price_memory", short=gib(need - pool.memory_bytes))
    if pool.kind == "gpu":
        rows = sorted((row for row in TABLE if row.kind == "gpu" and row.has_bf16), key=lambda row: row.hourly_dollars)
        for row in rows:
            bigger = pools_of([described_host(f"{row.name}:{pool.devices}")], "gpu", pool.devices)[0]
            if row.memory_bytes >= need and _fits(recipe, arch, bigger):
                dollars = f"{row.hourly_dollars * pool.devices:.2f}"
                price = say("price_device", count=pool.devices, model=row.name, dollars=dollars)
                break
    return _remedy(say("larger_memory", need=gib(need)), price)
