"""A candidate as a plan that travels: its figures, its stages with the term that binds each, and why the others lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from typing import Literal

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, PlanRejection, PlanStage, Saying
from ltp.core.device_memory import Estimate
from ltp.core.memory import Offload, trainable_parameters
from ltp.core.model_config import Architecture, parameters
from ltp.planning.candidates import Candidate, flat_states, per_device, samples_of
from ltp.planning.ranking import Objective, objective_of
from ltp.planning.sayings import english, say
from ltp.planning.search import MAX_CPU_MICRO_BATCH, Found, cost_dollars, eta_seconds, in_turns, misses
from ltp.planning.timing import host_bytes

MAX_REJECTIONS = 8


def plan_of(recipe: Recipe, arch: Architecture, candidate: Candidate, rejected: list[PlanRejection]) -> Plan:
    """The plan a candidate stands for."""
    pool, layout, found = candidate.pool, candidate.layout, candidate.estimate
    share = per_device(recipe, pool.devices, layout.sequence_parallel)
    tokens = recipe.training.batch_size * samples_of(recipe) * recipe.training.max_length
    return Plan(
        device_kind=pool.kind,
        devices=pool.devices,
        micro_batch_size=layout.micro_batch,
        gradient_checkpointing=layout.checkpointing,
        parameters=parameters(arch),
        memory_bytes=found.bytes,
        memory_upper_bytes=found.upper_bytes,
        device_memory_bytes=pool.memory_bytes,
        memory_components=found.components,
        step_seconds=candidate.seconds,
        rejected=rejected,
        device_model=pool.hardware.name if pool.hardware else None,
        shards=layout.shards,
        sequence_parallel=layout.sequence_parallel,
        token_budget=layout.token_budget,
        accumulation=ceil(share / layout.micro_batch),
        offload=layout.offload.value,
        fused_head=layout.fused_head,
        reshards=layout.reshards,
        rollout_tensor_parallel=max(1, layout.rollout_tensor_parallel),
        rollout_memory_share=candidate.rollout_share,
        cuda_graphs=candidate.cuda_graphs,
        strategy=strategy_of(recipe, candidate),
        tokens_per_second=tokens / candidate.seconds if candidate.seconds else None,
        eta_seconds=eta_seconds(recipe, candidate),
        cost_dollars=cost_dollars(recipe, candidate),
        host_memory_bytes=host_bytes(recipe, arch, pool, layout),
        checkpoint_bytes=checkpoint_bytes(recipe, arch),
        stages=stages_of(found),
    )


# FSDP 1's flat gradients took up to 1.5 % more than the closed form counts, and more is lost between its blocks.
_FLAT_HEADROOM = 0.05


def strategy_of(recipe: Recipe, candidate: Candidate) -> Literal["fsdp", "fsdp2"]:
    """The engine of verl for a candidate: FSDP 1 where it is the faster one and memory is not short."""
    flat = flat_states(recipe, candidate.pool, candidate.layout)
    return "fsdp" if flat and candidate.headroom >= _FLAT_HEADROOM else "fsdp2"


def checkpoint_bytes(recipe: Recipe, arch: Architecture) -> int:
    """One checkpoint on the disk: the stored weights, and AdamW's two fp32 moments of the trained ones."""
    rank = recipe.training.lora_rank
    trained = trainable_parameters(arch, rank)
    return 4 * (parameters(arch) + (trained if rank else 0)) + 8 * trained


def stages_of(found: Estimate) -> list[PlanStage]:
    """Every stage the memory model knows, with the term that binds it; the peak's alone where it tells no more."""
    phases = found.phases or {found.stage: found.components}
    rows: list[PlanStage] = []
    for stage, components in phases.items():
        if components:
            name, size = max(components.items(), key=lambda item: item[1])
            total = sum(components.values())
            rows.append(
                PlanStage(
                    stage=stage, memory_bytes=total, binding=name, binding_bytes=size, components=dict(components)
                )
            )
    return rows


def rejections(
    recipe: Recipe, order: Sequence[Candidate], found: Found, *, most: int = MAX_REJECTIONS
) -> list[PlanRejection]:
    """Why the others lost: at most `most` lines, the last of which counts the rest."""
    lost = found.considered - (1 if order else 0)
    if lost <= most:
        return list(_reasons(recipe, order, found))
    said = list(islice(_reasons(recipe, order, found), most - 1))
    return [*said, _rejection([say("more", count=lost - len(said))], say("others"))]


def _rejection(candidate: Sequence[Saying], why: Saying) -> PlanRejection:
    return PlanRejection(
        candidate=english(*candidate), reason=english(why), candidate_said=list(candidate), reason_said=why
    )


def _reasons(recipe: Recipe, order: Sequence[Candidate], found: Found) -> Iterator[PlanRejection]:
    """Those that nearly fit and those that nearly won take turns; of these, larger micro batches first: people ask why not."""
    losers = sorted(order[1:], key=lambda loser: loser.layout.micro_batch <= order[0].layout.micro_batch)
    behind = (_rejection(loser.said, _reason(recipe, loser, order[0])) for loser in losers)
    missed = (_rejection(miss.said, miss.why) for miss in misses(found))
    yield from in_turns(missed, behind)


def _reason(recipe: Recipe, loser: Candidate, chosen: Candidate) -> Saying:
    asked = recipe.resources.micro_batch_size is not None
    if loser.pool.kind == "cpu" and not asked and loser.layout.micro_batch > MAX_CPU_MICRO_BATCH:
        return say("processor_batch", count=MAX_CPU_MICRO_BATCH)
    objective = objective_of(recipe)
    mine, best = cost_dollars(recipe, loser), cost_dollars(recipe, chosen)
    if objective is Objective.COST and mine is not None and best is not None and mine > best * 1.005:
        return say("costs_more", share=f"{mine / best - 1:.0%}", dollars=f"{mine:,.2f}")
    if objective is Objective.FEWEST_GPUS and loser.pool.devices > chosen.pool.devices:
        return say("more_devices", count=loser.pool.devices - chosen.pool.devices)
    if objective is Objective.HEADROOM and loser.headroom < chosen.headroom:
        return say("less_free", share=f"{loser.headroom:.0%}", other=f"{chosen.headroom:.0%}")
    if objective is None and loser.pool.memory_bytes > chosen.pool.memory_bytes:
        return say("larger_device", enough=chosen.pool.model, larger=loser.pool.model)
    if loser.seconds is not None and chosen.seconds is not None and loser.seconds > chosen.seconds * 1.02:
        return say("slower", share=f"{loser.seconds / chosen.seconds - 1:.0%}", seconds=f"{loser.seconds:.2f}")
    if loser.layout.offload is not Offload.NONE and chosen.layout.offload is Offload.NONE:
        return say("needless_offload")
    if loser.layout.checkpointing and not chosen.layout.checkpointing:
        return say("needless_checkpointing")
    if loser.layout.fused_head and not chosen.layout.fused_head:
        return say("needless_pieces")
    if loser.layout.reshards and not chosen.layout.reshards:
        return say("needless_gathering")
    if loser.layout.micro_batch < chosen.layout.micro_batch:
        return say("less_busy")
    return say("no_faster")
