"""Another plan for a job whose plan did not hold: smaller in memory, with the same effective batch."""

from __future__ import annotations

from collections.abc import Sequence

from ltp.contracts.plan import ReplanRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.memory import Offload
from ltp.core.model_config import Architecture
from ltp.planning.candidates import Candidate, gib
from ltp.planning.choice import explore
from ltp.planning.pools import HostFacts
from ltp.planning.remedies import refusal
from ltp.planning.report import plan_of, rejections
from ltp.planning.search import Found
from ltp.planning.space import Margins

# After an out-of-memory error without a measured peak: how much less than the failed plan the next must need.
_STEP_DOWN = 0.85


def replan(
    request: ReplanRequest, arch: Architecture, hosts: Sequence[HostFacts], *, margins: Margins | None = None
) -> Plan:
    """The next plan: a smaller micro batch, then checkpointing, then a loss in pieces, then offload, then more devices.

    The batch of an optimizer step never changes: smaller micro batches are accumulated. Predictions are scaled by what the
    failed plan was measured to need over what it was predicted to need. Raises PLAN_DOES_NOT_FIT when nothing is left.
    """
    recipe, failed = _widened(request.recipe, hosts), request.failed
    found = explore(recipe, arch, hosts, margins=margins)
    scale = _scale(request)
    limit = _limit(request)
    left = [candidate for candidate in found.fitting if _milder(candidate, failed, scale, limit)]
    if not left:
        raise _nothing_left(request, arch, hosts, found)
    order = sorted(left, key=lambda candidate: _order(candidate, failed))
    return plan_of(recipe, arch, order[0], rejections(recipe, order, Found(fitting=order, rejected=found.rejected)))


def _widened(recipe: Recipe, hosts: Sequence[HostFacts]) -> Recipe:
    """More devices are the last resort, whatever the recipe said; the size that failed is no longer asked for."""
    most = max((sum(d.kind == "gpu" for d in host.devices) for host in hosts), default=0)
    resources = recipe.resources
    changes = {"micro_batch_size": None, "max_devices": max(resources.max_devices or 0, most, resources.devices)}
    return recipe.model_copy(update={"resources": resources.model_copy(update=changes)})


def _scale(request: ReplanRequest) -> float:
    """Measured over predicted, never below 1: a plan that failed has not proved the model too careful."""
    failed, peak = request.failed, request.measured_peak_bytes
    return 1.0 if peak is None else max(1.0, peak / max(1, failed.memory_upper_bytes))


def _limit(request: ReplanRequest) -> float:
    """What the next plan may need, before scaling: less than the failed one, and no more than is free."""
    failed = request.failed
    if request.reason == "no-room" and request.free_bytes is not None:
        return request.free_bytes
    return failed.memory_upper_bytes * _STEP_DOWN


def _milder(candidate: Candidate, failed: Plan, scale: float, limit: float) -> bool:
    need = candidate.estimate.upper_bytes * scale
    return candidate.pool.kind == failed.device_kind and need <= min(limit * scale, candidate.pool.usable_bytes)


def _order(candidate: Candidate, failed: Plan) -> tuple[float, ...]:
    """Smaller is better: the same devices and means as before with a smaller micro batch, and then one means after the other."""
    layout, pool = candidate.layout, candidate.pool
    return (
        float(pool.devices != failed.devices), float(pool.devices),
        float(layout.offload is not Offload.NONE and layout.offload.value != failed.offload),
        float(layout.fused_head and not failed.fused_head),
        float(layout.checkpointing and not failed.gradient_checkpointing),
        float(layout.sequence_parallel != failed.sequence_parallel),
        float(layout.shards != (failed.shards or failed.devices)),
        -float(layout.micro_batch),
    )  # fmt: skip


def _nothing_left(request: ReplanRequest, arch: Architecture, hosts: Sequence[HostFacts], found: Found) -> LtpError:
    if not found.fitting:
        return refusal(request.recipe, arch, hosts, found)
    least = min(found.fitting, key=lambda candidate: candidate.estimate.upper_bytes)
    message = (
        f"The plan needed more than it was predicted to, and the smallest other one ({least.name}) "
        f"is predicted to need {gib(least.estimate.upper_bytes)}, which is not less."
    )
    hint = "Lower training.max_length, set training.lora_rank, or use devices with more memory."
    return LtpError(ErrorCode.PLAN_DOES_NOT_FIT, message, hint)


def without_room(plan: Plan, free_bytes: int) -> int:
    """Bytes by which a plan exceeds what is free now; 0 when it has room."""
    return max(0, plan.memory_upper_bytes - free_bytes)
