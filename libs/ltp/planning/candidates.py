"""The configurations a job could run with: every choice the planner makes, and the memory and time it is predicted to cost."""

from __future__ import annotations

from dataclasses import dataclass

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Saying
from ltp.core.device_memory import Estimate
from ltp.core.memory import GIB, LossHead, Offload, Precision, Step
from ltp.planning.pools import Pool
from ltp.planning.sayings import english, say

# Responses that the generator holds at one time on one device (vLLM's max_num_seqs); the rest wait their turn. Decoding
# reads the weights once for all of them, so few at a time cost as many passes more.
MAX_CONCURRENT_RESPONSES = 512


@dataclass(frozen=True, slots=True)
class Layout:
    """The choices of one configuration."""

    # Sequences at a time on a device; with `token_budget`, how many of full length fit into it.
    micro_batch: int
    checkpointing: bool = False
    # Devices among which one copy of the states is spread; fewer than all is HSDP.
    shards: int = 1
    sequence_parallel: int = 1
    # Packed batches of at most this many tokens on a device.
    token_budget: int | None = None
    offload: Offload = Offload.NONE
    # The loss head in pieces, without the logits of all tokens (verl's fused kernels).
    fused_head: bool = False
    # False keeps the gathered weights from a layer's forward to its backward.
    reshards: bool = True
    rollout_tensor_parallel: int = 0

    @property
    def levers(self) -> int:
        """How many means against a shortage of memory are in use; each costs time or has been tried less."""
        means = (self.offload is not Offload.NONE, self.fused_head, self.checkpointing, self.sequence_parallel > 1)
        return sum(means) + self.reshards


@dataclass(slots=True)
class Candidate:
    """A layout on a pool, with what it is predicted to need."""

    pool: Pool
    layout: Layout
    estimate: Estimate
    # Of one optimizer step, generation included; None where nothing is known of the device's speed.
    seconds: float | None = None
    rollout_share: float | None = None
    # Whether the generator's decode steps are captured as CUDA graphs: there was room for them.
    cuda_graphs: bool = False

    @property
    def name(self) -> str:
        """How a person would say it."""
        return english(*self.said)

    @property
    def said(self) -> list[Saying]:
        """The same, part by part."""
        return describe(self.layout, self.pool)

    @property
    def headroom(self) -> float:
        """Share of the usable memory that stays free at the upper bound; below 0 it does not fit."""
        return 1 - self.estimate.upper_bytes / max(1, self.pool.usable_bytes)


def describe(layout: Layout, pool: Pool) -> list[Saying]:
    """A layout in words; what is as usual is not said."""
    unit = say("micro_batch", count=layout.micro_batch)
    if layout.token_budget is not None:
        unit = say("packed_tokens", count=layout.token_budget)
    words = [unit, say("with_checkpointing" if layout.checkpointing else "no_checkpointing")]
    if layout.shards != pool.devices:
        words.append(say("states_over_of", count=layout.shards, devices=pool.devices))
    if layout.sequence_parallel > 1:
        words.append(say("sequence_parallel", count=layout.sequence_parallel))
    if layout.fused_head:
        words.append(say("fused_head"))
    if not layout.reshards:
        words.append(say("stay_gathered"))
    if layout.offload is not Offload.NONE:
        words.append(say("offload", what=layout.offload.value))
    if layout.rollout_tensor_parallel > 1:
        words.append(say("rollout_over_devices", count=layout.rollout_tensor_parallel))
    return words


def gib(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.1f} GiB"


def samples_of(recipe: Recipe) -> int:
    """Sequences that one row becomes in a step."""
    return recipe.reinforcement.samples_per_prompt if recipe.reinforcement else 1


def per_device(recipe: Recipe, devices: int, sequence_parallel: int = 1) -> int:
    """Sequences that a device trains on in one optimizer step; ranks of a sequence group share theirs."""
    return recipe.training.batch_size * samples_of(recipe) * sequence_parallel // devices


def step_of(recipe: Recipe, pool: Pool, layout: Layout) -> Step:
    """The layout in the memory model's words."""
    share = per_device(recipe, pool.devices, layout.sequence_parallel)
    return Step(
        precision=Precision.FSDP2 if pool.kind == "gpu" else Precision.FP32,
        # A pair of DPO is two sequences, which verl keeps in one micro batch.
        micro_batch=layout.micro_batch * (2 if recipe.algorithm == "dpo" else 1),
        sequence=recipe.training.max_length,
        checkpointing=layout.checkpointing,
        lora_rank=recipe.training.lora_rank,
        loss_head=_loss_head(recipe, pool, layout),
        accumulates=share > layout.micro_batch,
        shards=layout.shards,
        replicas=max(1, pool.devices // layout.shards),
        reshards=layout.reshards,
        offload=layout.offload,
        flat=flat_states(recipe, pool, layout),
        fused_optimizer=pool.kind == "gpu" and layout.offload is Offload.NONE,
        sequence_parallel=layout.sequence_parallel,
        tokens_packed=None if layout.token_budget is None else layout.token_budget * layout.sequence_parallel,
    )


def flat_states(recipe: Recipe, pool: Pool, layout: Layout) -> bool:
    """Whether FSDP 1 trains it: on one GPU it shards nothing, and was 1.4 to 2.2 % faster than FSDP 2 (H200, 0.5B SFT).

    With LoRA it was 29 % slower (7B), on several GPUs it holds more memory than it saves time, and for RL and DPO nobody measured.
    """
    plain = recipe.algorithm == "sft" and not recipe.training.lora_rank and layout.offload is Offload.NONE
    return plain and pool.kind == "gpu" and pool.devices == 1


def may_stay_gathered(recipe: Recipe, pool: Pool) -> bool:
    """Whether weights may stay gathered until backward: 3 % faster for LoRA on one H200 (7B), where little else is done.

    Full training of 0.5B gained nothing, and RL would hold them while it generates; several GPUs have not been measured.
    """
    return recipe.algorithm == "sft" and recipe.training.lora_rank > 0 and pool.kind == "gpu" and pool.devices == 1


def _loss_head(recipe: Recipe, pool: Pool, layout: Layout) -> LossHead:
    if layout.fused_head:
        return LossHead.CHUNKED
    section = recipe.reinforcement
    if pool.kind == "gpu" and (section is None or not section.entropy_coefficient):
        return LossHead.LABELS  # RL's update too: entropy that counts for nothing is not computed there
    # Not measured on processors, where the larger figure stands.
    return LossHead.CROSS_ENTROPY if section is None else LossHead.POLICY


def responses_of(recipe: Recipe, pool: Pool, layout: Layout) -> int:
    """Responses that a replica of the generator should hold at a time; 0 where the algorithm generates nothing."""
    if recipe.reinforcement is None:
        return 0
    wide = max(1, layout.rollout_tensor_parallel)
    return min(per_device(recipe, pool.devices), MAX_CONCURRENT_RESPONSES) * wide


def largest(found: Estimate) -> str:
    """The component that needs most, with its size: it names the lever to pull."""
    name, size = largest_part(found)
    return f"{name} ({gib(size)})"


def largest_part(found: Estimate) -> tuple[str, int]:
    """The same as a name and bytes."""
    return max(found.components.items(), key=lambda item: item[1])
