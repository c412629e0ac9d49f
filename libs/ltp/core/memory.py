"""Predicts the peak memory of one training step per device in closed form, cheap enough to search thousands of plans.

Source: docs/memory.md. The coefficients are finite differences of a trace of transformers' eager modules with fused
attention, checked on an H200 (tests/data/gpu_memory_h200.jsonl).
All results are bytes per device. Measured there: dense models, full and LoRA, one and two GPUs. Derived:
more than two shards, and `FP32` (processors), whose activations alone are checked against autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ltp.core.model_config import Architecture, layer_parameters, linear_shapes, parameters

MIB = 1024**2
GIB = 1024**3


class Precision(StrEnum):
    """How numbers are held; verl's FSDP engine trains as FSDP2 on GPUs and, in this platform, as FP32 on processors."""

    # Weights, gradients and optimizer in bfloat16.
    BF16 = "bf16"
    # fp32 master weights, unsharded, with autocast to bfloat16.
    AMP = "amp"
    # fp32 master shards, gathered layer by layer in bfloat16, reduced in fp32.
    FSDP2 = "fsdp2"
    # As FSDP2, with everything in fp32.
    FP32 = "fp32"


class LossHead(StrEnum):
    """What turns hidden states into a loss: next to the states, the largest term of small models."""

    CROSS_ENTROPY = "cross_entropy"
    CHUNKED = "chunked"
    # The log-probabilities of the labels, sequence by sequence in bf16, as verl's SFT computes them.
    LABELS = "labels"
    # Log-probabilities and entropy of the policy, as RL needs.
    POLICY = "policy"


class Sharding(StrEnum):
    """What is spread over `shards` devices, in ZeRO's words; `FULL` is ZeRO-3, which is FSDP's."""

    OPTIMIZER = "zero1"
    GRADIENTS = "zero2"
    FULL = "zero3"


class Offload(StrEnum):
    """What waits in host memory; FSDP's CPU offload keeps everything there and brings layers in as they are gathered."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    ALL = "all"


@dataclass(frozen=True)
class Step:
    """One optimizer step on one device. Sequences are taken as full: `micro_batch` * `sequence` tokens at a time.

    `tokens_packed` replaces that product where rows are packed into a token budget; `sequence` is then the longest
    row. `micro_batch` counts sequences as the model sees them: a DPO pair is two.
    """

    precision: Precision
    micro_batch: int
    sequence: int
    checkpointing: bool
    lora_rank: int = 0
    loss_head: LossHead = LossHead.CROSS_ENTROPY
    # More than one micro batch per step: gradients live through forward and backward.
    accumulates: bool = False
    shards: int = 1
    sharding: Sharding = Sharding.FULL
    # HSDP: groups of `shards` devices that each hold the whole model and average their gradients.
    replicas: int = 1
    # False keeps every layer gathered from its forward to its backward (ZeRO-2 as FSDP does it).
    reshards: bool = True
    offload: Offload = Offload.NONE
    # Devices that share each layer's matrices, and each sequence's tokens (Ulysses).
    tensor_parallel: int = 1
    sequence_parallel: int = 1
    tokens_packed: int | None = None
    # Tokens of one piece of a chunked loss head.
    chunk: int = 1024
    # One kernel for AdamW, without the copy of the moments' root.
    fused_optimizer: bool = False
    # LoRA: bytes of a frozen weight, where that differs from the trained precision's (verl's default: fp32).
    frozen_bytes: int | None = None
    # A frozen copy of the model for log-probabilities (DPO, PPO, GRPO with a KL term); with LoRA the base serves.
    reference: bool = False
    # A value model of the same architecture that is trained in turn with the policy (PPO).
    critic: bool = False
    # FSDP1's flat parameters instead of FSDP2's one by one.
    flat: bool = False
    # The caller holds the model's output, and with it the logits, while backward runs.
    keeps_logits: bool = True
    # torch's allocator grows its segments in place: reserved memory follows the allocated closely.
    expandable_segments: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch on this device."""
        whole = self.micro_batch * self.sequence if self.tokens_packed is None else self.tokens_packed
        return -(-whole // self.sequence_parallel)

    @property
    def gathers(self) -> bool:
        """Whether weights are sharded and gathered layer by layer."""
        return self.precision in (Precision.FSDP2, Precision.FP32)

    @property
    def stored(self) -> int:
        """Bytes of a stored frozen or trained weight."""
        return 2 if self.precision is Precision.BF16 else 4

    @property
    def frozen(self) -> int:
        """Bytes of a stored weight that LoRA leaves alone."""
        return self.stored if self.frozen_bytes is None else self.frozen_bytes

    @property
    def trained(self) -> int:
        """Bytes of a trained weight, its gradient and each optimizer moment; peft makes adapters fp32."""
        return 4 if self.lora_rank else self.stored

    @property
    def computed(self) -> int:
        """Bytes of a number in the layers' arithmetic."""
        return 4 if self.precision is Precision.FP32 else 2


@dataclass(frozen=True)
class States:
    """What lives as long as the training: weights and the two moments of AdamW; with gradients between the passes."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Peak:
    """The stage of a step that needs most, by component. `workspace` is cuBLAS's 32 MiB and small allocations."""

    stage: str
    components: dict[str, int]

    @property
    def allocated(self) -> int:
        """Bytes the allocator has handed out at the peak; the device's context is not among them."""
        return sum(self.components.values())


def trainable_parameters(arch: Architecture, lora_rank: int) -> int:
    """All weights, or those of rank-`lora_rank` adapters on every linear projection: r * (in + out) each."""
    if not lora_rank:
        return parameters(arch)
    return arch.layers * lora_rank * sum(sum(shape) for shape in linear_shapes(arch))


def states(arch: Architecture, step: Step) -> States:
    """Bytes per device: P * w + Pt * (t + t + 2t), over the shards where the mode shards."""
    shards = step.shards if step.gathers else 1
    trained = trainable_parameters(arch, step.lora_rank) * step.trained // shards
    weights = parameters(arch) * step.stored // shards + (trained if step.lora_rank else 0)
    return States(weights, trained, 2 * trained)


def layer_activations(arch: Architecture, step: Step) -> int:
    """Bytes that autograd keeps for one layer without checkpointing.

    Per token, h hidden, i feed-forward, A and KV query and key widths, a and k their heads, r LoRA rank:
    16h + 8i + 4A + 4KV + 4a + 12; query/key norms 6A + 6KV + 4(a + k); autocast 10h; LoRA 12h + 2i + 4A + 28r (with
    query/key norms 2A - 2KV for 4A). In fp32 the norms' casts vanish and the rest doubles:
    24h + 16i + 8A + 8KV + 4a + 8; query/key norms 8A + 8KV + 4(a + k), LoRA 12r.
    """
    h, i, a, k = arch.hidden, arch.intermediate, arch.heads, arch.kv_heads
    query, kv = arch.query_width, arch.kv_width
    if step.precision is Precision.FP32:
        each = 24 * h + 16 * i + 8 * query + 8 * kv + 4 * a + 8
        each += 8 * (query + kv) + 4 * (a + k) if arch.qk_norm else 0
        return step.tokens * (each + 12 * step.lora_rank)
    each = 16 * h + 8 * i + 4 * query + 4 * kv + 4 * a + 12
    each += 6 * (query + kv) + 4 * (a + k) if arch.qk_norm else 0
    each += 10 * h if step.precision is Precision.AMP else 0
    if step.lora_rank:
        each += 12 * h + 2 * i + 28 * step.lora_rank + (2 * query - 2 * kv if arch.qk_norm else 4 * query)
    return step.tokens * each


def _kept_activations(arch: Architecture, step: Step) -> int:
    """Between forward and backward: every layer's, or with checkpointing each layer's input alone (2h; 4h in fp32)."""
    if not step.checkpointing:
        return arch.layers * layer_activations(arch, step)
    residual = 2 if step.precision in (Precision.BF16, Precision.FSDP2) else 4
    return arch.layers * step.tokens * arch.hidden * residual


def _loss_head(arch: Architecture, step: Step) -> tuple[int, int, int]:
    """Bytes of the logits that stay, and of what comes on top at the end of forward and in backward.

    In units of tokens * vocabulary. Cross-entropy: 2 for bf16 logits; fp32 copy 4 and log-softmax 4; its gradient 4.
    Policy: 6 and 12 in bf16; under autocast the softmaxes are fp32, 16 and 26 (both fitted to §7).
    fp32: 4 for the logits, log-softmax 4 and gradients 8 more; entropy 4 more in either pass (derived).
    Labels: everything in bf16, 2 for the log-softmax and 6 more in backward (verl 0.9.1's SFT on an H200, three plans).
    Chunked: one chunk of 1024 tokens at a time and the fp32 gradient of the hidden states.
    """
    each = step.tokens * arch.vocab
    if step.loss_head is LossHead.CHUNKED:
        chunk = 14 * min(step.tokens, 1024) * arch.vocab + 4 * step.tokens * arch.hidden
        return 0, 0, chunk
    if step.precision is Precision.FP32:
        forward, backward = (8, 16) if step.loss_head is LossHead.POLICY else (4, 12)
        return 4 * each, forward * each, backward * each
    if step.loss_head is LossHead.CROSS_ENTROPY:
        return 2 * each, 8 * each, 12 * each
    if step.loss_head is LossHead.LABELS:
        return 2 * each, 2 * each, 6 * each
    forward, backward = (6, 12) if step.precision is Precision.BF16 else (16, 26)
    return 2 * each, forward * each, backward * each


def _gathered(arch: Architecture, step: Step) -> int:
    """FSDP's unsharded weights: the root group (embedding or head, final norm), the current layer and the next."""
    if not step.gathers:
        return 0
    return step.computed * (arch.vocab * arch.hidden + arch.hidden + 2 * layer_parameters(arch))


def training_peak(arch: Architecture, step: Step) -> Peak:
    """The largest of the four stages of a step: end of forward, backward of the loss, of the layers, optimizer."""
    stages = (_forward(arch, step), _loss(arch, step), _layers(arch, step), _optimizer(arch, step))
    return max(stages, key=lambda peak: peak.allocated)


def _peak(stage: str, held: States, gradients: int, activations: int, loss_head: int, gathered: int) -> Peak:
    components = {
        "parameters": held.weights,
        "gradients": gradients,
        "optimizer": held.optimizer,
        "activations": activations,
        "loss_head": loss_head,
        "gathered_layers": gathered,
        "workspace": 64 * MIB,
    }
    return Peak(stage, components)


def _tail(arch: Architecture, step: Step) -> int:
    """The final norm's fp32 copy, normed and output, and the embedding's output."""
    return step.tokens * arch.hidden * (16 if step.precision is Precision.FP32 else 10)


def _forward(arch: Architecture, step: Step) -> Peak:
    held = states(arch, step)
    logits, forward, _ = _loss_head(arch, step)
    # Autocast caches a bf16 copy of every weight until its context ends.
    cached = 2 * parameters(arch) if step.precision is Precision.AMP else 0
    earlier = held.gradients if step.accumulates else 0
    kept = _kept_activations(arch, step) + _tail(arch, step)
    return _peak("forward", held, earlier, kept, logits + forward, _gathered(arch, step) + cached)


def _loss(arch: Architecture, step: Step) -> Peak:
    held = states(arch, step)
    logits, _, backward = _loss_head(arch, step)
    cached = 2 * (arch.vocab * arch.hidden if step.checkpointing else parameters(arch))
    cached = cached if step.precision is Precision.AMP else 0
    earlier = held.gradients if step.accumulates else 0
    kept = _kept_activations(arch, step) + _tail(arch, step)
    return _peak("loss", held, earlier, kept, logits + backward, _gathered(arch, step) + cached)


def _layers(arch: Architecture, step: Step) -> Peak:
    """Backward frees activations as gradients appear, so the maximum lies at one of its two ends."""
    held = states(arch, step)
    layer, embedding = layer_parameters(arch), arch.vocab * arch.hidden
    at_last = (held.gradients if step.accumulates else 0, _kept_activations(arch, step))
    at_first = (held.gradients, 0)
    if not step.lora_rank:
        at_last = (at_last[0] + embedding * (4 if step.gathers else step.trained), at_last[1])
    if step.gathers and not step.lora_rank:
        # Unreduced gradients of the layers in flight: bf16 and their fp32 copies for the reduction.
        buffers = min(6 * (layer + embedding), 2 * 2 * (embedding + arch.hidden) + 3 * 2 * layer)
        at_first = (held.gradients + buffers, 0)
    gradients, activations = max(at_last, at_first, key=sum)
    if step.checkpointing:
        wide = step.computed * step.tokens * arch.intermediate * (3 if step.lora_rank else 2)
        activations += layer_activations(arch, step) + wide + 2 * step.computed * step.tokens * arch.hidden
    cached = 2 * layer if step.precision is Precision.AMP else 0
    return _peak("layers", held, gradients, activations, _loss_head(arch, step)[0], _gathered(arch, step) + cached)


def _optimizer(arch: Architecture, step: Step) -> Peak:
    """AdamW over lists of tensors (foreach) holds one more copy of the trained weights, the root of the moments."""
    held = states(arch, step)
    with_scratch = States(held.weights, held.gradients, held.optimizer + held.gradients)
    return _peak("optimizer", with_scratch, held.gradients, 0, 0, 0)
