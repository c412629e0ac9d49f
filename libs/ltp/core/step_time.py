"""Predicts the seconds of a training step from a roofline: arithmetic, memory traffic, links, and kernel launches.

A pass over a layer takes what its matrix products, its fused attention and the traffic of its elementwise operations take,
or what launching its kernels takes, whichever is longer. The traffic is counted operation by operation as transformers runs
them eagerly; the shares of the peak rates that are reached are fitted (docs/planner.md has the held-out errors).
"""

from __future__ import annotations

from dataclasses import dataclass

from ltp.core.architecture import Architecture, active_parameters, adapter_parameters, linear_shapes
from ltp.core.memory import LossHead, Offload, Precision, Step, trainable_parameters
from ltp.core.model_config import parameters


@dataclass(frozen=True)
class Roofline:
    """What a device can do, and the share of it that training reaches. Rates are per second and device."""

    flops: float
    memory_bytes: float
    # To the other devices of the host; 0 where there is only one.
    link_bytes: float
    # To host memory.
    host_bytes: float = 55e9
    # From one kernel's launch to the next, where the host is what holds a step up.
    launch_seconds: float = 33e-6
    # Shares that a training step reaches: of `flops` in large products and in fused attention, of `memory_bytes` in copies.
    efficiency: float = 0.97
    memory_efficiency: float = 0.58
    attention_efficiency: float = 0.55
    # Backward's elementwise traffic and kernels, as multiples of forward's.
    backward_traffic: float = 1.24
    backward_kernels: float = 0.6


# Measured on one: 780 TFLOP/s of bf16 products, 241 GB/s of NCCL's bus (planner.md §7); nine tenths of the maker's 4.8 TB/s.
MEASURED_H200 = Roofline(780e12, 4.32e12, 241e9)


# What FSDP2 takes more than FSDP1's flat parameters, on the H200: copying each group's parameters out, in forward, and
# clipping and stepping each parameter as a DTensor (0.5B and 1.5B: 3.6 ms of 28 groups, 4.3-5.2 ms of about 300 tensors).
_GROUP_SECONDS, _TENSOR_SECONDS = 1.3e-4, 1.5e-5


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, by part; `backward` includes recomputation."""

    forward: float
    backward: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.forward + self.backward + self.optimizer


def step_seconds(arch: Architecture, step: Step, roofline: Roofline, *, micro_batches: int = 1) -> float:
    """Seconds of one optimizer step of `micro_batches` micro batches on each device."""
    return step_time(arch, step, roofline, micro_batches=micro_batches).total


def step_time(arch: Architecture, step: Step, roofline: Roofline, *, micro_batches: int = 1) -> StepTime:
    """As `step_seconds`, by part."""
    rate, wire = roofline.flops * roofline.efficiency, roofline.memory_bytes * roofline.memory_efficiency
    if step.precision is Precision.FP32:
        rate /= 2
    split = step.tensor_parallel
    products, head, attention = (flops / split for flops in _flops(arch, step))
    traffic = _layer_traffic(arch, step) / split
    head_traffic = [size / split for size in _head_traffic(arch, step)]
    kernels, head_kernels = _kernels(arch, step), 40
    gathered, reduced = _sharding_traffic(arch, step)
    link = _link_seconds(arch, step, roofline)

    attention *= roofline.efficiency / roofline.attention_efficiency

    def passed(work: float, bytes_: float, launches: float, transfer: float) -> float:
        device = work / rate + bytes_ / wire
        return max(device + 0.15 * min(device, transfer), transfer, launches * roofline.launch_seconds)

    forward = passed(
        products + attention + head, traffic + head_traffic[0] + gathered, kernels + head_kernels, link.gather
    )
    again = 1 if step.checkpointing else 0
    twice = 1 if step.lora_rank else 2
    chunked = step.loss_head is LossHead.CHUNKED
    backward = passed(
        (twice + again) * products + (2.5 + again) * attention + (twice + chunked) * head,
        (roofline.backward_traffic + again) * traffic + head_traffic[1] + gathered * step.reshards + reduced,
        (roofline.backward_kernels + again) * kernels + head_kernels,
        link.gather * step.reshards + link.reduce,
    )
    one_by_one = step.gathers and not step.flat
    forward += (arch.layers + 1) * _GROUP_SECONDS if one_by_one else 0.0
    update = _update(arch, step, roofline) + (12 * arch.layers * _TENSOR_SECONDS if one_by_one else 0.0)
    return StepTime(micro_batches * forward, micro_batches * backward, update)


def _flops(arch: Architecture, step: Step) -> tuple[float, float, float]:
    """Of one forward: the layers' products, the head's, causal attention's."""
    head = 2.0 * step.tokens * arch.vocab * arch.hidden
    inside = active_parameters(arch) - arch.vocab * arch.hidden
    if arch.experts:
        # Grouped products over few rows reach about two thirds of what one large product does.
        inside += 0.6 * arch.sparse_layers * arch.experts_per_token * 3 * arch.expert_intermediate * arch.hidden
    if step.lora_rank and not arch.experts:
        inside += adapter_parameters(arch, step.lora_rank) * (8 if step.precision is Precision.BF16 else 1)
    attention = 2.0 * step.tokens * step.sequence * arch.query_width * arch.layers
    return 2.0 * step.tokens * inside, head, attention


def _layer_traffic(arch: Architecture, step: Step) -> float:
    """Bytes that a forward's elementwise operations read and write in all layers."""
    h, query, kv = arch.hidden, arch.query_width, arch.kv_width
    each = 34 * h * arch.norms + 12 * h + 28 * query + 24 * kv
    each += 34 * (query + kv) if arch.qk_norm else 0
    if step.precision is Precision.AMP:
        each += 30 * h + 12 * (query + kv)
    if arch.experts:
        rows = arch.experts_per_token
        each += rows * (14 * h + 10 * arch.expert_intermediate) + 10 * arch.shared_intermediate + 16 * arch.experts
    else:
        each += (10 if arch.gated else 4) * arch.intermediate
    if step.lora_rank:
        inputs, outputs = (sum(shape[side] for shape in linear_shapes(arch)) for side in (1, 0))
        wide = step.precision is Precision.BF16
        each += 10 * inputs + 28 * outputs if wide else 2 * inputs + 14 * outputs
    return each * step.tokens * arch.layers * (step.computed / 2)


def _head_traffic(arch: Architecture, step: Step) -> tuple[float, float]:
    """Bytes of the loss head in forward and backward, in multiples of tokens times vocabulary."""
    each = float(step.tokens * arch.vocab)
    fine = 2 if step.precision is not Precision.BF16 else 1
    forward, backward = {
        LossHead.CROSS_ENTROPY: (16, 30),
        LossHead.CHUNKED: (16, 46),
        # verl's blocks of rows: 32 more than one pass over the logits and one over their gradient would take.
        LossHead.LABELS: (24, 36),
        LossHead.POLICY: (28 * fine, 48 * fine),
    }[step.loss_head]
    return forward * each, backward * each


def _kernels(arch: Architecture, step: Step) -> float:
    """Kernels that a forward launches in all layers."""
    each = 44 + 8 * (arch.norms - 2) + (16 if arch.qk_norm else 0) + (30 if arch.experts else 0)
    each += 12 if step.precision is Precision.AMP else 0
    each += 7 * len(linear_shapes(arch)) if step.lora_rank else 0
    each += 25 if step.gathers else 0
    # Non-reentrant checkpointing runs two Python hooks for every tensor that is saved.
    each += 20 if step.checkpointing else 0
    return float(each * arch.layers)


def _sharding_traffic(arch: Architecture, step: Step) -> tuple[float, float]:
    """Bytes that gathering a model's weights and reducing its gradients copy on the device."""
    if not step.gathers:
        return 0.0, 0.0
    count, shards = float(parameters(arch)), step.shards
    gathered = count * (6 if shards == 1 else 6 / shards + 6)
    return gathered, trainable_parameters(arch, step.lora_rank) * (6 + 8 / shards)


@dataclass(frozen=True)
class _Link:
    gather: float
    reduce: float


def _link_seconds(arch: Architecture, step: Step, roofline: Roofline) -> _Link:
    """Seconds on the links: gathering in each pass, reducing in fp32 after backward."""
    if step.shards * step.replicas == 1 or not roofline.link_bytes:
        return _Link(0.0, 0.0)
    share = (step.shards - 1) / step.shards / roofline.link_bytes
    trained = trainable_parameters(arch, step.lora_rank)
    reduce = 4 * trained * share
    if step.replicas > 1:
        reduce += 8 * trained / step.shards * (step.replicas - 1) / step.replicas / roofline.link_bytes
    return _Link(2 * parameters(arch) * share if step.gathers else 0.0, reduce)


def _update(arch: Architecture, step: Step, roofline: Roofline) -> float:
    """Clipping and AdamW: about 23 numbers read or written a weight, 11 in one fused kernel; from host memory if there."""
    count = trainable_parameters(arch, step.lora_rank) / (step.shards if step.gathers else 1)
    moved = count * step.trained * (11 if step.fused_optimizer else 23)
    seconds = moved / (roofline.memory_bytes * roofline.memory_efficiency)
    tensors = arch.layers * (14 if step.lora_rank else 12)
    if step.offload is not Offload.NONE:
        seconds += 12 * count / roofline.host_bytes
    return max(seconds, 3 * tensors * roofline.launch_seconds)
