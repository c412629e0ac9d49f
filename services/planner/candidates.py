"""The configurations a job could run with, each with the memory it is predicted to need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Device
from ltp.core.device_memory import Estimate, Rollout, estimate
from ltp.core.memory import GIB, LossHead, Precision, Step
from ltp.core.model_config import Architecture

Kind = Literal["cpu", "gpu"]

# Share of a device's memory that a plan may count on. A GPU's driver keeps little; a host also runs these services.
USABLE: dict[Kind, float] = {"gpu": 0.97, "cpu": 0.90}
# Responses that the generator holds at one time; the rest wait their turn.
MAX_CONCURRENT_RESPONSES = 64


@dataclass(frozen=True)
class HostFacts:
    """What the planner knows of a host."""

    host_id: str
    devices: Sequence[Device]
    memory_bytes: int
    cpus: int


@dataclass(frozen=True)
class Pool:
    """Devices of one host that could carry the job. `memory_bytes` is that of the smallest of them."""

    host_id: str
    kind: Kind
    devices: int
    memory_bytes: int

    @property
    def usable_bytes(self) -> int:
        """Memory a plan may count on, per device."""
        return int(self.memory_bytes * USABLE[self.kind])


@dataclass(frozen=True)
class Candidate:
    """A micro batch and a choice on checkpointing, with what they are predicted to need."""

    micro_batch: int
    checkpointing: bool
    estimate: Estimate

    @property
    def name(self) -> str:
        """How a person would say it."""
        return f"micro batch {self.micro_batch}, {'with' if self.checkpointing else 'no'} gradient checkpointing"


def gib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.1f} GiB"


def pools_of(hosts: Iterable[HostFacts], kind: Kind, count: int) -> list[Pool]:
    """One pool for each host with `count` devices of a kind: its largest ones."""
    found: list[Pool] = []
    for host in hosts:
        sizes = sorted((device.memory_bytes for device in host.devices if device.kind == kind), reverse=True)
        if len(sizes) >= count:
            # A processor's memory is the host's, however its device states it.
            size = min(sizes[count - 1], host.memory_bytes) if kind == "cpu" else sizes[count - 1]
            found.append(Pool(host.host_id, kind, count, size))
    return found


def per_device(recipe: Recipe, devices: int) -> int:
    """Sequences that a device trains on in one optimizer step."""
    samples = recipe.reinforcement.samples_per_prompt if recipe.reinforcement else 1
    return recipe.training.batch_size * samples // devices


def _loss_head(recipe: Recipe, pool: Pool) -> LossHead:
    if recipe.algorithm == "grpo":
        return LossHead.POLICY
    # Not measured on processors, where the larger figure stands.
    return LossHead.LABELS if pool.kind == "gpu" else LossHead.CROSS_ENTROPY


def _estimate(recipe: Recipe, arch: Architecture, pool: Pool, micro_batch: int, checkpointing: bool) -> Estimate:
    share = per_device(recipe, pool.devices)
    step = Step(
        precision=Precision.FSDP2 if pool.kind == "gpu" else Precision.FP32,
        micro_batch=micro_batch,
        sequence=recipe.training.max_length,
        checkpointing=checkpointing,
        lora_rank=recipe.training.lora_rank,
        loss_head=_loss_head(recipe, pool),
        accumulates=share > micro_batch,
        shards=pool.devices,
    )
    concurrent = Rollout(min(share, MAX_CONCURRENT_RESPONSES), recipe.training.max_length)
    return estimate(arch, step, concurrent if recipe.algorithm == "grpo" else None)


def candidates_of(recipe: Recipe, arch: Architecture, pool: Pool) -> list[Candidate]:
    """Every power of two that divides a device's share (or the size asked for), without and with checkpointing."""
    share, asked = per_device(recipe, pool.devices), recipe.resources.micro_batch_size
    powers = [1 << n for n in range(share.bit_length()) if share % (1 << n) == 0]
    sizes = [asked] if asked else powers
    return [
        Candidate(size, checkpointing, _estimate(recipe, arch, pool, size, checkpointing))
        for checkpointing in (False, True)
        for size in reversed(sizes)
    ]


def largest(found: Estimate) -> str:
    """The component that needs most, with its size: it names the lever to pull."""
    name, size = max(found.components.items(), key=lambda item: item[1])
    return f"{name} ({gib(size)})"


def smallest(recipe: Recipe, arch: Architecture, pool: Pool) -> Candidate:
    """The candidate that needs least memory."""
    return min(candidates_of(recipe, arch, pool), key=lambda candidate: candidate.estimate.upper_bytes)
