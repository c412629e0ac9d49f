"""The replay's word on plans that the closed form calls safe by a narrow margin: what it cannot place is not planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.device_constants import outside_allocator
from ltp.core.memory import Offload, Step
from ltp.core.model_config import Architecture
from ltp.core.replay.step import Replay, replay, replays
from ltp.planning.candidates import Candidate, Layout, gib, step_of
from ltp.planning.pools import Pool
from ltp.planning.sayings import say
from ltp.planning.search import Found, Rejected

# Below this headroom the replay is asked; a replay takes about a tenth of a second, so only the first few are.
NARROW = 0.08
_MOST = 3


def confirmed(recipe: Recipe, arch: Architecture, order: Sequence[Candidate], found: Found) -> list[Candidate]:
    """The candidates without leading ones that the replay finds no room for; those are added to what was rejected."""
    left = list(order)
    for _ in range(_MOST):
        if not left or left[0].pool.kind != "gpu" or left[0].headroom >= NARROW:
            return left
        step = step_of(recipe, left[0].pool, left[0].layout)
        # With so little room the engine is FSDP 2 (`report.strategy_of`).
        exact = _replayed(arch, replace(step, flat=False), left[0].pool.usable_bytes, beside_of(left[0]))
        if exact is None or exact.refused is None:
            return left
        refuted = left.pop(0)
        found.fitting.remove(refuted)
        found.rejected.append(Rejected(refuted.said, say("replay", size=gib(exact.refused)), nearly=True))
    return left


def beside_of(candidate: Candidate) -> int:
    """Bytes of what shares the device with the training step: a sleeping generator, a reference, a critic."""
    parts = candidate.estimate.components
    return sum(parts.get(name, 0) for name in ("rollout", "reference", "critic"))


def opinion(recipe: Recipe, arch: Architecture, plan: Plan) -> Replay | None:
    """The replay of a plan's step, with no limit; None where it does not cover the step."""
    pool = Pool("", plan.device_kind, plan.devices, memory_bytes=plan.device_memory_bytes)
    layout = Layout(
        plan.micro_batch_size, plan.gradient_checkpointing, shards=plan.shards or plan.devices,
        sequence_parallel=plan.sequence_parallel, token_budget=plan.token_budget, offload=Offload(plan.offload),
        fused_head=plan.fused_head, reshards=plan.reshards,
    )  # fmt: skip
    step = replace(step_of(recipe, pool, layout), flat=plan.strategy == "fsdp")
    return replay(arch, step) if replays(arch, step) else None


def _replayed(arch: Architecture, step: Step, usable: int, beside: int) -> Replay | None:
    if not replays(arch, step):
        return None
    return replay(arch, step, capacity=usable - outside_allocator(step) - beside)
