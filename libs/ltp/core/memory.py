"""Predicts the peak memory of one training step per device in closed form, cheap enough to search thousands of plans.

Source: docs/planner.md. Coefficients are finite differences of a trace of transformers' eager modules with fused attention.
`ltp.core.replay` walks through the same step allocation by allocation; tests hold the two together, and the replay against an
H200 (tests/data/gpu_memory_h200.jsonl). All results are bytes per device.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltp.core.activations import activations_of, layer_activations
from ltp.core.architecture import Architecture, adapter_parameters, layer_parameters, parameters
from ltp.core.training_step import GIB, MIB, LossHead, Offload, Precision, Sharding, Step

__all__ = [
    "GIB",
    "MIB",
    "LossHead",
    "Offload",
    "Peak",
    "Precision",
    "Sharding",
    "States",
    "Step",
    "gathered",
    "layer_activations",
    "loss_head",
    "scoring_head",
    "states",
    "trainable_parameters",
    "training_peak",
    "training_stages",
]

# cuBLAS's workspaces of the caller's and autograd's thread, and small allocations.
WORKSPACE = 66 * MIB


@dataclass(frozen=True)
class States:
    """What lives as long as the training: weights and the two moments of AdamW; with gradients between the passes."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Peak:
    """A stage of a step, by component. `workspace` is cuBLAS's, and small allocations."""

    stage: str
    components: dict[str, int]

    @property
    def allocated(self) -> int:
        """Bytes the allocator has handed out at the peak; the device's context is not among them."""
        return sum(self.components.values())


@dataclass(frozen=True)
class _Counts:
    """Numbers of weights, counted once for an architecture and a rank."""

    all: int
    trained: int
    layer: int
    embedding: int


def _counts(arch: Architecture, lora_rank: int) -> _Counts:
    found = arch.counted.get(lora_rank)
    if not isinstance(found, _Counts):
        total = parameters(arch)
        trained = adapter_parameters(arch, lora_rank) if lora_rank else total
        found = arch.counted[lora_rank] = _Counts(total, trained, layer_parameters(arch), arch.vocab * arch.hidden)
    return found


def trainable_parameters(arch: Architecture, lora_rank: int) -> int:
    """All weights, or those of rank-`lora_rank` adapters on every linear projection: r * (in + out) each."""
    return _counts(arch, lora_rank).trained


def states(arch: Architecture, step: Step) -> States:
    """Bytes per device: P * w + Pt * (t + t + 2t); what `sharding` names is divided by the shards, all of it by TP.

    With less than full sharding every device computes on whole bf16 weights beside its shard of the fp32 master.
    """
    count = _counts(arch, step.lora_rank)
    shards = step.shards if step.gathers else 1
    parts = step.tensor_parallel
    if step.offload is Offload.ALL:
        return States(0, 0, 0)
    trained = count.trained * step.trained // parts
    frozen = count.all * step.frozen // parts if step.lora_rank else 0
    whole = step.sharding is not Sharding.FULL and step.gathers and shards > 1
    weights = (frozen if step.lora_rank else 0) // shards + trained // shards
    if whole:
        weights += count.all * step.computed // parts
    gradients = trained if whole and step.sharding is Sharding.OPTIMIZER else trained // shards
    return States(weights, gradients, 2 * trained // shards)


def _kept_activations(arch: Architecture, step: Step) -> int:
    """Between forward and backward: every layer's, or with checkpointing each layer's input alone (2h; 4h in fp32)."""
    if not step.checkpointing:
        sparse, dense = arch.sparse_layers, arch.layers - arch.sparse_layers
        kinds = ((sparse, True), (dense, False))
        return sum(count * activations_of(arch, step, sparse=kind) for count, kind in kinds if count)
    residual = 2 if step.precision in (Precision.BF16, Precision.FSDP2) else 4
    return arch.layers * step.tokens * arch.hidden * residual


def loss_head(arch: Architecture, step: Step) -> tuple[int, int, int]:
    """Bytes of the logits that stay, and of what comes on top at the end of forward and in backward.

    In units of tokens * vocabulary. Cross-entropy: 2 for bf16 logits; fp32 copy 4 and log-softmax 4; its gradient 4.
    Policy: 6 and 12 in bf16, 16 and 26 under autocast, whose softmaxes are fp32 (the replay counts them one by one).
    fp32: 4 for the logits, log-softmax 4 and gradients 8 more; entropy 4 more in either pass (derived).
    Labels: a copy of the logits 2, the fp32 log-softmax 4; in backward 6 (verl 0.9.1's SFT on an H200, eight runs).
    Chunked: one chunk at a time, the fp32 gradient of the hidden states, and the gradient of the head's weights.
    """
    each = step.tokens * arch.vocab // step.tensor_parallel
    if step.loss_head is LossHead.CHUNKED:
        chunk = 14 * min(step.tokens, step.chunk) * arch.vocab // step.tensor_parallel
        return 0, 0, chunk + 4 * step.tokens * arch.hidden
    if step.precision is Precision.FP32:
        forward, backward = (8, 16) if step.loss_head is LossHead.POLICY else (4, 12)
        return 4 * each, forward * each, backward * each
    # Gemma 2 keeps tanh's output, and its scaled logits are others than those it returns.
    capped = 2 * each if arch.final_softcap else 0
    if step.loss_head is LossHead.CROSS_ENTROPY:
        return 2 * each, 8 * each + capped, 12 * each + capped
    if step.loss_head is LossHead.LABELS:
        return 2 * each, 2 * each + capped, 6 * each + capped
    forward, backward = (6, 12) if step.precision is Precision.BF16 else (16, 26)
    return 2 * each, forward * each + capped, backward * each + capped


def scoring_head(arch: Architecture, step: Step) -> int:
    """Bytes of logits, labels' log-probabilities and entropy in a pass that keeps nothing for a backward.

    In units of tokens * vocabulary: 14 in bf16 (verl 0.9.1's GRPO of 1.5B on an H200, micro batches of 16, 32 and 64:
    14.06 to 14.1), 12 in fp32 (derived).
    """
    tokens = min(step.tokens, step.chunk) if step.loss_head is LossHead.CHUNKED else step.tokens
    width = 12 if step.precision is Precision.FP32 else 16 if arch.final_softcap else 14
    return width * tokens * arch.vocab // step.tensor_parallel


def gathered(arch: Architecture, step: Step) -> tuple[int, int]:
    """FSDP's unsharded weights at the loss, and in the layers' backward.

    At the loss: the root group (embedding or head, final norm), and the buffer of the layer that was gathered last. In
    backward the layer is there, and the one before it is on its way. A device alone needs no buffer.
    """
    if not step.gathers or (step.sharding is not Sharding.FULL and step.shards > 1):
        return 0, 0
    count, parts = _counts(arch, step.lora_rank), step.tensor_parallel
    layer = step.computed * count.layer // parts
    root = step.computed * (count.embedding + arch.hidden) // parts
    if not step.reshards:
        whole = step.computed * count.all // parts
        return whole, whole
    buffer = layer if step.shards > 1 else 0
    # The policy's loss is computed outside the model, whose root is sharded again by then.
    outside = step.loss_head in (LossHead.POLICY, LossHead.LABELS)
    return (0 if outside else root + buffer), root + layer + buffer


def training_peak(arch: Architecture, step: Step) -> Peak:
    """The largest of the four stages of a step: end of forward, backward of the loss, of the layers, optimizer."""
    return max(training_stages(arch, step), key=lambda peak: peak.allocated)


def training_stages(arch: Architecture, step: Step) -> tuple[Peak, Peak, Peak, Peak]:
    """The four stages of a step; what they share is counted once."""
    held = states(arch, step)
    count, parts = _counts(arch, step.lora_rank), step.tensor_parallel
    kept, (logits, forward, backward) = _kept_activations(arch, step), loss_head(arch, step)
    at_loss, _ = gathered(arch, step)
    earlier = held.gradients if step.accumulates else 0
    amp = step.precision is Precision.AMP
    # The final norm's fp32 copy, normed and output, and the embedding's output.
    tail = step.tokens * arch.hidden * (16 if step.precision is Precision.FP32 else 10)
    # Autocast caches a bf16 copy of every weight until its context ends.
    cached = 2 * count.all // parts if amp else 0
    lost = 2 * count.embedding // parts if amp and step.checkpointing else cached
    if step.loss_head is LossHead.CHUNKED and not step.lora_rank:
        backward += step.computed * count.embedding // parts
    gradients, activations, whole = _layers(arch, step, held, kept)
    return (
        _peak("forward", held, earlier, kept + tail, logits + forward, at_loss + cached),
        _peak("loss", held, earlier, kept + tail, logits + backward, at_loss + lost),
        _peak("layers", held, gradients, activations, logits, whole),
        _optimizer(step, held),
    )


def _peak(stage: str, held: States, gradients: int, activations: int, head: int, whole: int) -> Peak:
    components = {
        "parameters": held.weights,
        "gradients": gradients,
        "optimizer": held.optimizer,
        "activations": activations,
        "loss_head": head,
        "gathered_layers": whole,
        "workspace": WORKSPACE,
    }
    return Peak(stage, components)


def _layers(arch: Architecture, step: Step, held: States, kept: int) -> tuple[int, int, int]:
    """Gradients, activations and gathered weights in the layers' backward, at the worst of three moments.

    The last layer is computed again while all activations are still there; the first one when most gradients are; and
    when FSDP reduces the first one's gradients, nothing but gradients is left.
    """
    count, parts = _counts(arch, step.lora_rank), step.tensor_parallel
    embedding, layer = count.embedding // parts, count.layer // parts
    again = _recomputed(arch, step) if step.checkpointing else _folded(arch, step)
    _, whole = gathered(arch, step)
    cached = 2 * layer if step.precision is Precision.AMP else 0
    earlier = held.gradients if step.accumulates else 0
    if step.lora_rank:
        moments = [(earlier, kept + again, whole), (held.gradients, again, whole)]
        return max(moments, key=sum)
    # The head's gradient waits, unreduced, until the root's turn comes after the last layer.
    waiting = embedding * (step.computed if step.gathers else step.trained)
    last = (earlier + waiting, kept + again, whole + cached)
    if not step.gathers:
        return max(last, (held.gradients, again, whole + cached), key=sum)
    waiting *= 1 if arch.tied else 2
    before = max(0, held.gradients - layer * step.trained // step.shards)
    root = whole - step.computed * layer * (2 if step.shards > 1 else 1) if step.reshards else whole
    first = (before + waiting + 4 * layer, again, root + step.computed * layer)
    reducing = (held.gradients + waiting + (step.computed + 4) * layer, 0, root)
    # The last layer's own gradients are reduced while those of its activations that are left, and all others', are there.
    rest = kept if step.checkpointing else kept * (arch.layers - 1) // arch.layers
    early = (
        earlier + waiting + (step.computed + 4) * layer + layer * 4 // step.shards,
        rest,
        root + step.computed * layer,
    )
    return max(last, first, reducing, early, key=sum)


def _recomputed(arch: Architecture, step: Step) -> int:
    """One layer's activations, with the temporaries of its feed-forward block's backward."""
    wide = (
        step.tokens * (arch.expert_intermediate * arch.experts_per_token or arch.intermediate) // step.tensor_parallel
    )
    inner = step.computed * wide * (3 if step.lora_rank else 2)
    return layer_activations(arch, step) + inner + 2 * step.computed * step.tokens * arch.hidden + _folded(arch, step)


def _folded(arch: Architecture, step: Step) -> int:
    """The gradient of a folded copy of the down projections; the joined one's comes when that copy is gone."""
    if not (step.lora_rank and arch.adapts_experts):
        return 0
    return 2 * arch.experts * arch.expert_intermediate * arch.hidden // step.tensor_parallel


def _optimizer(step: Step, held: States) -> Peak:
    """AdamW over lists of tensors (foreach) holds one more copy of the trained weights, the root of the moments."""
    scratch = 0 if step.fused_optimizer else held.optimizer // 2
    return _peak("optimizer", States(held.weights, 0, held.optimizer + scratch), held.gradients, 0, 0, 0)
