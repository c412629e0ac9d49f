"""One optimizer step as memory and time follow from it: how much at a time, in which precision, spread over what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    # Rows of different lengths without a kernel for packs: attention gets a mask over all pairs, made a bias a layer.
    padded: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch on this device."""
        whole = self.micro_batch * self.sequence if self.tokens_packed is None else self.tokens_packed
        return -(-whole // self.sequence_parallel)

    @property
    def masked_pairs(self) -> int:
        """Pairs of positions that a mask of one micro batch covers, the same for all heads."""
        return self.micro_batch * self.sequence * self.sequence

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
