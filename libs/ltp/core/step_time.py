"""Predicts the seconds of a training step from a roofline: arithmetic, memory traffic, links, and kernel launches.

The constants of a device kind are fitted to measured steps (docs/memory.md names the command and the held-out error).
"""

from __future__ import annotations

from dataclasses import dataclass

from ltp.core.memory import Offload, Step, trainable_parameters
from ltp.core.model_config import Architecture, layer_parameters, parameters


@dataclass(frozen=True)
class Roofline:
    """What a device can do, and the share of it that training reaches. Rates are per second and device."""

    flops: float
    memory_bytes: float
    # To the other devices of the host; 0 where there is only one.
    link_bytes: float
    # To host memory.
    host_bytes: float = 55e9
    launch_seconds: float = 5e-6
    # Share of `flops` that large matrix products reach inside a training step.
    efficiency: float = 0.7


MEASURED_H200 = Roofline(780e12, 4.3e12, 240e9)


def step_seconds(arch: Architecture, step: Step, roofline: Roofline, *, micro_batches: int = 1) -> float:
    """Seconds of one optimizer step of `micro_batches` micro batches on each device."""
    arithmetic = _flops(arch, step) / (roofline.flops * roofline.efficiency)
    traffic = step.tokens * (40 * arch.vocab + 30 * arch.layers * arch.hidden) / roofline.memory_bytes
    update = 30 * trainable_parameters(arch, step.lora_rank) / step.shards / roofline.memory_bytes
    link = 0.0
    if step.shards > 1 and roofline.link_bytes:
        link = 2 * 4 * parameters(arch) * (step.shards - 1) / step.shards / roofline.link_bytes
    moved = 12 * parameters(arch) / step.shards / roofline.host_bytes if step.offload is not Offload.NONE else 0.0
    passes = 4 if step.checkpointing else 3
    launches = 40 * passes * arch.layers * roofline.launch_seconds
    each = max(arithmetic + traffic, launches, link) + 0.15 * min(arithmetic, link)
    return micro_batches * each + update + moved


def _flops(arch: Architecture, step: Step) -> float:
    forward = 2.0 * (layer_parameters(arch) * arch.layers + arch.vocab * arch.hidden) * step.tokens
    forward += 2.0 * step.tokens * step.sequence * arch.query_width * arch.layers
    return forward * ((2 if step.lora_rank else 3) + step.checkpointing)
