"""The search: every layout on every pool, against verl's rules, the memory, the budget and the deadline; the best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Saying
from ltp.core.device_constants import CONSTANTS
from ltp.core.memory import GIB
from ltp.core.model_config import Architecture, parameters
from ltp.planning.candidates import (
    MAX_CONCURRENT_RESPONSES,
    Candidate,
    Layout,
    describe,
    gib,
    largest_part,
    responses_of,
)
from ltp.planning.constraints import Violation, violations
from ltp.planning.facts import facts_of
from ltp.planning.pools import HostFacts, Kind, Pool, pools_of
from ltp.planning.sayings import english, say
from ltp.planning.space import Margins, Space
from ltp.planning.timing import cache_bytes, host_bytes

# A processor's cores are busy with a few sequences; more of them only take memory.
MAX_CPU_MICRO_BATCH = 8
# vLLM awake beside its weights and cache: context, graphs, the activations of its profile run; and of that run the
# logits of each sequence, a byte count a vocabulary's word.
_ENGINE_BYTES = 2 * GIB
_LOGITS_BYTES = 6
# What vLLM finds for its cache is less than what is left of its share by arithmetic, and a response without room waits: with
# nothing to spare generation took 4.1 s, with plenty 3.5 (GRPO of 1.5B on an H200). The cache is free again in training.
_CACHE_HEADROOM = 2
# Of the trainer's process and of vLLM's, each.
_CONTEXT_BYTES = GIB
_MOST_OF_DEVICE = 0.9
# Counts beyond this are tried in powers of two.
_EVERY_COUNT = 16


@dataclass(frozen=True)
class Rejected:
    """What cannot run, and why; `excess` orders near misses before far ones."""

    said: Sequence[Saying]
    why: Saying
    excess: float = 0.0
    # The device's memory would do; something else of the host, or a wish, stands against it.
    nearly: bool = False

    @property
    def candidate(self) -> str:
        """Its name in English."""
        return english(*self.said)

    @property
    def reason(self) -> str:
        """What stands against it, in English."""
        return english(self.why)


@dataclass
class Found:
    """All that was considered for a recipe: what fits, in no order, and what does not."""

    fitting: list[Candidate] = field(default_factory=list[Candidate])
    rejected: list[Rejected] = field(default_factory=list[Rejected])
    # What breaks no rule and only needs too much memory.
    oversized: list[Candidate] = field(default_factory=list[Candidate])
    # What is larger than an oversized one in its micro batch alone; not predicted unless somebody asks.
    beyond: list[tuple[Space, Layout]] = field(default_factory=list[tuple[Space, Layout]])
    pools: list[Pool] = field(default_factory=list[Pool])

    @property
    def considered(self) -> int:
        """Number of candidates."""
        return len(self.fitting) + len(self.rejected) + len(self.oversized) + len(self.beyond)

    @property
    def least(self) -> Candidate | None:
        """Of what does not fit, what comes nearest."""
        return max(self.oversized, key=lambda candidate: candidate.headroom, default=None)


def counts_of(recipe: Recipe, hosts: Sequence[HostFacts], kind: Kind) -> list[int]:
    """Numbers of devices to try: what the recipe asks for, up to what it allows and a host has."""
    least = recipe.resources.devices
    most = max(least, recipe.resources.max_devices or least)
    there = max((sum(device.kind == kind for device in host.devices) for host in hosts), default=0)
    there *= recipe.resources.hosts
    return [n for n in range(least, min(most, there) + 1) if n <= _EVERY_COUNT or not n & (n - 1) or n == least]


def kinds_of(recipe: Recipe, hosts: Sequence[HostFacts]) -> list[Kind]:
    """Kinds of device in the order of preference: `auto` is a GPU where one exists, and else the processors."""
    wanted = recipe.resources.device_kind
    if wanted != "auto":
        return [wanted]
    has_gpu = any(device.kind == "gpu" for host in hosts for device in host.devices)
    return ["gpu", "cpu"] if has_gpu else ["cpu"]


def pools_for(recipe: Recipe, hosts: Sequence[HostFacts], kind: Kind) -> list[Pool]:
    """Every different pool the recipe could use; hosts that offer the same stand for one another."""
    different: dict[tuple[object, ...], Pool] = {}
    for count in counts_of(recipe, hosts, kind):
        for pool in pools_of(hosts, kind, count, recipe.resources.hosts):
            key = (pool.model, count, pool.memory_bytes, pool.usable_bytes, pool.flash_attention)
            known = different.get(key)
            if known is None or pool.host_memory_bytes > known.host_memory_bytes:
                different[key] = pool
    return list(different.values())


def search(
    recipe: Recipe,
    arch: Architecture,
    pools: Sequence[Pool],
    *,
    rows: int | None = None,
    margins: Margins | None = None,
) -> Found:
    """All candidates of a recipe on the pools."""
    found = Found(pools=list(pools))
    for pool in pools:
        if pool.hardware is not None and not pool.hardware.has_bf16:
            which = say("device_count", count=pool.devices, model=pool.model)
            found.rejected.append(Rejected([which], say("no_bfloat16", model=pool.model)))
            continue
        if pool.kind == "cpu" and recipe.reinforcement and pool.devices > 1:
            found.rejected.append(Rejected([say("processors")], say("one_process"), nearly=True))
            continue
        _search_pool(Space(recipe, arch, pool, margins or {}), found, rows)
    return found


def _search_pool(space: Space, found: Found, rows: int | None) -> None:
    recipe, arch, pool = space.recipe, space.arch, space.pool
    for shape in space.shapes():
        broken = violations(facts_of(recipe, arch, pool, shape, rows), but=_OF_BATCHES)
        if broken:
            found.rejected.append(Rejected(_spread(shape, pool), _rule(broken[0])))
            continue
        sizes: list[Layout] = []
        for layout in space.batches(shape):
            broken = violations(facts_of(recipe, arch, pool, layout, rows))
            if broken:
                found.rejected.append(Rejected(describe(layout, pool), _rule(broken[0])))
            else:
                sizes.append(layout)
        for means in space.means():
            _climb(space, [replace(layout, **means) for layout in sizes], found)


# Rules that only a micro batch or a token budget decides; a shape has none yet.
_OF_BATCHES = frozenset({5, 6, 9, 12})


def _climb(space: Space, layouts: Sequence[Layout], found: Found) -> None:
    """Look at layouts that differ in their micro batch alone, the smallest first.

    Memory grows with the micro batch, so all above the first that is too large are too large. The largest is looked at in
    any case: a step of one micro batch holds no gradients through its forward pass.
    """
    for index, layout in enumerate(layouts):
        if not _consider(space, layout, found):
            between = layouts[index + 1 : -1]
            found.beyond += [(space, one) for one in between]
            if index + 1 < len(layouts):
                _consider(space, layouts[-1], found)
            return


def _spread(shape: Layout, pool: Pool) -> list[Saying]:
    words = [say("device_count", count=pool.devices, model=pool.model)]
    if shape.shards != pool.devices:
        words.append(say("states_over", count=shape.shards))
    if shape.sequence_parallel > 1:
        words.append(say("sequence_parallel", count=shape.sequence_parallel))
    if shape.rollout_tensor_parallel > 1:
        words.append(say("rollout_over", count=shape.rollout_tensor_parallel))
    return words


def _rule(broken: Violation) -> Saying:
    return say("rule", number=broken.number, name=broken.name, message=broken.message)


def _consider(space: Space, layout: Layout, found: Found) -> bool:
    """Predict one layout and file it; False when the training step alone is too large."""
    pool = space.pool
    given = _rollout_share(space, layout)
    if isinstance(given, Rejected):
        found.rejected.append(given)
        return True
    share, graphs = given
    estimate = space.predict(layout, share, cuda_graphs=graphs)
    candidate = Candidate(pool, layout, estimate, rollout_share=share, cuda_graphs=graphs)
    if candidate.estimate.upper_bytes > pool.usable_bytes:
        found.oversized.append(candidate)
        return False
    refused = _needs_host(space, candidate) or _needs_time(space, candidate)
    if refused is None:
        found.fitting.append(candidate)
    else:
        found.rejected.append(refused)
    return True


def _needs_host(space: Space, candidate: Candidate) -> Rejected | None:
    pool = candidate.pool
    if pool.kind == "cpu":
        return None  # the device's memory is the host's
    need = host_bytes(space.recipe, space.arch, pool, candidate.layout)
    short = need - pool.host_memory_bytes
    if short <= 0:
        return None
    reason = say("host_memory", need=gib(need), short=gib(short))
    return Rejected(candidate.said, reason, short / need, nearly=True)


def _rollout_share(space: Space, layout: Layout) -> tuple[float | None, bool] | Rejected:
    """Give vLLM its share beside the training states that stay: it measures what is free when it starts (verl.md §3.4).

    It counts its CUDA graphs, which never sleep, into that share; they are captured where there is room for them too.
    """
    pool, arch = space.pool, space.arch
    sequences = responses_of(space.recipe, pool, layout)
    if not sequences or pool.kind == "cpu":
        return None, False
    wide = max(1, layout.rollout_tensor_parallel)
    states_held = space.held(layout)
    held = states_held + 2 * _CONTEXT_BYTES
    room = pool.usable_bytes - held
    fixed = 2 * parameters(arch) // wide + _ENGINE_BYTES + _LOGITS_BYTES * sequences * arch.vocab // wide
    each = cache_bytes(arch) * space.recipe.training.max_length // wide
    least = fixed + each
    if least > room:
        short = least - room
        reason = say("generator_memory", need=gib(least), held=gib(held), short=gib(short))
        return Rejected(describe(layout, pool), reason, short / least, nearly=True)
    graphs = least + CONSTANTS.cuda_graphs <= room
    wanted = fixed + _CACHE_HEADROOM * each * sequences + graphs * CONSTANTS.cuda_graphs
    share = min(_MOST_OF_DEVICE, min(wanted, room) / pool.memory_bytes)
    return max(0.01, int(share * 1000) / 1000), graphs


def _needs_time(space: Space, candidate: Candidate) -> Rejected | None:
    """Predict the step, and hold it against the deadline and the budget."""
    recipe = space.recipe
    candidate.seconds = space.seconds(candidate.layout, _concurrent(space, candidate))
    resources = recipe.resources
    for what, limit, value in (
        ("deadline", resources.deadline_seconds, eta_seconds(recipe, candidate)),
        ("budget", resources.budget_dollars, cost_dollars(recipe, candidate)),
    ):
        if limit is not None and value is not None and value > limit:
            reason = say(what, value=f"{value:,.0f}", over=f"{value - limit:,.0f}", limit=f"{limit:,.0f}")
            return Rejected(candidate.said, reason, value / limit - 1, nearly=True)
    return None


def _concurrent(space: Space, candidate: Candidate) -> int:
    """Responses that fit into the cache of one replica at a time."""
    if candidate.rollout_share is None:
        return 0
    arch, wide = space.arch, max(1, candidate.layout.rollout_tensor_parallel)
    fixed = _ENGINE_BYTES + (2 * parameters(arch) + _LOGITS_BYTES * MAX_CONCURRENT_RESPONSES * arch.vocab) / wide
    cache = candidate.rollout_share * candidate.pool.memory_bytes - fixed
    each = cache_bytes(arch) * space.recipe.training.max_length / wide
    return max(1, min(MAX_CONCURRENT_RESPONSES * wide, int(cache / each)))


def eta_seconds(recipe: Recipe, candidate: Candidate) -> float | None:
    """Seconds of all steps, every sequence at its full length."""
    return None if candidate.seconds is None else candidate.seconds * recipe.training.steps


def cost_dollars(recipe: Recipe, candidate: Candidate) -> float | None:
    """What the devices cost meanwhile."""
    seconds, hourly = eta_seconds(recipe, candidate), candidate.pool.hourly_dollars
    return None if seconds is None or hourly is None else seconds / 3600 * hourly


def misses(found: Found) -> Iterator[Rejected]:
    """Everything that was rejected with its reason, near misses first; sizes and the other reasons take turns."""
    yield from in_turns(_oversized(found), iter(sorted(found.rejected, key=lambda rejected: rejected.excess)))
    for space, layout in found.beyond:
        candidate = Candidate(space.pool, layout, space.predict(layout, None))
        excess = candidate.estimate.upper_bytes - space.pool.usable_bytes
        yield Rejected(candidate.said, say("as_smaller", short=gib(excess)), -candidate.headroom)


def _oversized(found: Found) -> Iterator[Rejected]:
    for candidate in sorted(found.oversized, key=lambda c: -c.headroom):
        need, offer = candidate.estimate.upper_bytes, candidate.pool.usable_bytes
        component, size = largest_part(candidate.estimate)
        figures = {"need": gib(need), "offer": gib(offer), "short": gib(need - offer), "size": gib(size)}
        reason = say("device_memory", component=component, **figures)
        yield Rejected(candidate.said, reason, -candidate.headroom)


T = TypeVar("T")


def in_turns(*sources: Iterator[T]) -> Iterator[T]:
    """One of each source after the other, until all have ended."""
    left = list(sources)
    while left:
        for source in list(left):
            try:
                yield next(source)
            except StopIteration:
                left.remove(source)
