"""Turns the peak of a training step into what a device must have: the allocator's bytes, what lies outside, a margin.

RL adds the generator that shares the device, a reference and a critic. Those parts are put together from known terms
(docs/planner.md), and on an H200 they held as a bound, not as a point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ltp.core.activations import mask_bytes
from ltp.core.architecture import Architecture
from ltp.core.device_constants import CONSTANTS, outside_allocator
from ltp.core.memory import (
    WORKSPACE,
    LossHead,
    Offload,
    Precision,
    Step,
    gathered,
    scoring_head,
    states,
    trainable_parameters,
    training_stages,
)
from ltp.core.model_config import parameters


@dataclass(frozen=True)
class Rollout:
    """Generation beside the training: at most `sequences` at a time, of `tokens` each, prompt and response."""

    sequences: int
    tokens: int
    # vLLM: share of the device it may fill (`gpu_memory_utilization`); None predicts what the sequences need.
    memory_share: float | None = None
    device_bytes: int | None = None
    tensor_parallel: int = 1
    # Tokens of one prefill (`max_num_batched_tokens`), and whether decode steps are captured as CUDA graphs.
    batched_tokens: int = 8192
    cuda_graphs: bool = True


@dataclass(frozen=True)
class Estimate:
    """Predicted peak per device: bytes by component, and an upper bound of their sum."""

    stage: str
    components: dict[str, int]
    upper_bytes: int
    # What the allocator holds at its peak beyond what it has handed out; not part of `components`.
    fragmentation: int = 0
    # Share of the upper bound over the point, from the residuals of measured steps.
    margin: float = 0.0
    asked: tuple[Architecture, Step, Rollout | None] | None = field(default=None, repr=False, compare=False)

    @property
    def bytes(self) -> int:
        """The predicted peak itself."""
        return sum(self.components.values())

    @property
    def device_bytes(self) -> int:
        """What the driver would show: allocated, held back by the allocator, and outside it."""
        return self.bytes + self.fragmentation

    @property
    def phases(self) -> dict[str, dict[str, int]]:
        """Every phase (init, rollout, log_prob, update, optimizer, checkpoint, resume) -> component -> bytes."""
        return {} if self.asked is None else phases_of(*self.asked)


def estimate(arch: Architecture, step: Step, rollout: Rollout | None = None) -> Estimate:
    """Peak of training, or of generation or scoring where that needs more; they take turns on the device."""
    peak = max(training_stages(arch, step), key=lambda stage: stage.allocated)
    stage, components = peak.stage, {**peak.components, **_companions(arch, step)}
    if rollout is not None:
        asleep, generating = _generation(arch, step, rollout)
        components["rollout"] = asleep
        scoring = {**_scoring(arch, step), **_companions(arch, step), "rollout": asleep}
        if sum(scoring.values()) > sum(components.values()):
            stage, components = "log_prob", scoring
        if sum(generating.values()) > sum(components.values()):
            stage, components = "rollout", generating
    on_cpu = step.precision is Precision.FP32
    margin = CONSTANTS.processor_margin if on_cpu else CONSTANTS.margin
    upper = int(sum(components.values()) * (1 + margin)) + (0 if on_cpu else mask_bytes(arch, step))
    components["context"] = outside_allocator(step, with_ray=rollout is not None)
    return Estimate(stage, components, upper + components["context"], margin=margin, asked=(arch, step, rollout))


def phases_of(arch: Architecture, step: Step, rollout: Rollout | None = None) -> dict[str, dict[str, int]]:
    """What each phase of a run needs, by component; a phase that the run does not have is left out.

    Between the phases, verl's optimizer offload keeps the moments on the host: rollout and log-probabilities run without.
    """
    held, context = states(arch, step), outside_allocator(step, with_ray=rollout is not None)
    around = {**_companions(arch, step), "context": context}
    forward, loss, layers, optimizer = training_stages(arch, step)
    update = max(forward, loss, layers, key=lambda stage: stage.allocated)
    phases: dict[str, dict[str, int]] = {"init": {"parameters": held.weights, "workspace": WORKSPACE, **around}}
    if rollout is not None:
        asleep, generating = _generation(arch, step, rollout)
        phases["rollout"] = {**generating, "context": context}
        around["rollout"] = asleep
    if rollout is not None or step.loss_head is LossHead.POLICY or step.reference:
        phases["log_prob"] = {**_scoring(arch, step), **around}
    phases["update"] = {**update.components, **around}
    phases["optimizer"] = {**optimizer.components, **around}
    # Sharded checkpoints leave the device one tensor at a time; coming back, the states are read on the host first.
    phases["checkpoint"] = {"parameters": held.weights, "optimizer": held.optimizer, "workspace": WORKSPACE, **around}
    phases["resume"] = dict(phases["checkpoint"])
    return phases


def _scoring(arch: Architecture, step: Step) -> dict[str, int]:
    """The pass that gives sampled tokens their log-probabilities: no gradients, and no layer's activations stay."""
    held = states(arch, step)
    return {
        "parameters": held.weights,
        "optimizer": 0 if step.offload is not Offload.NONE else held.optimizer,
        "activations": 8 * step.tokens * arch.hidden,
        "loss_head": scoring_head(arch, step),
        "gathered_layers": gathered(arch, step)[1],
        "workspace": WORKSPACE,
    }


def _companions(arch: Architecture, step: Step) -> dict[str, int]:
    """A reference model's weights (with LoRA the base serves), and a critic's states where it is not offloaded."""
    found: dict[str, int] = {}
    if step.reference and not step.lora_rank and step.offload is Offload.NONE:
        found["reference"] = step.stored * parameters(arch) // (step.shards if step.gathers else 1)
    if step.critic and step.offload is Offload.NONE:
        held = states(arch, step)
        found["critic"] = held.weights + held.optimizer
    return found


def _generation(arch: Architecture, step: Step, rollout: Rollout) -> tuple[int, dict[str, int]]:
    """Bytes of the generator that stay while training runs, and the whole device, by component, while it generates.

    On a GPU vLLM sleeps and gives weights and cache back. On processors the transformers server keeps fp32 weights,
    and a second copy travels through Ray's object store at each update.
    """
    on_cpu = step.precision is Precision.FP32
    width, parts = (4, 1) if on_cpu else (2, rollout.tensor_parallel)
    weights = width * parameters(arch) // parts
    cache = width * arch.layers * arch.cache_width * rollout.sequences * rollout.tokens // parts
    held = states(arch, step)
    moments = 0 if step.offload is not Offload.NONE else held.optimizer
    residue = {"parameters": held.weights, "optimizer": moments}
    if on_cpu:
        awake = {"rollout": 2 * weights, "kv_cache": cache, "logits": 4 * arch.vocab * rollout.sequences}
        return 2 * weights, {**residue, **awake}
    graphs = CONSTANTS.cuda_graphs if rollout.cuda_graphs else 0
    asleep = CONSTANTS.engine_context + graphs
    if rollout.memory_share is not None and rollout.device_bytes is not None:
        # vLLM takes its whole share: what weights, graphs and profile leave becomes cache.
        share = int(rollout.memory_share * rollout.device_bytes)
        cache = max(0, share - weights - asleep - _profile(arch, rollout))
    awake = {"rollout": weights + CONSTANTS.engine_context, "kv_cache": cache, "cuda_graphs": graphs}
    return asleep, {**residue, **awake, "profile": _profile(arch, rollout)}


def _profile(arch: Architecture, rollout: Rollout) -> int:
    """The largest prefill of vLLM: feed-forward activations in bf16, and fp32 logits of one token a sequence."""
    wide = 2 * (2 * arch.intermediate + 4 * arch.hidden) // rollout.tensor_parallel
    return rollout.batched_tokens * wide + 6 * rollout.sequences * arch.vocab // rollout.tensor_parallel


def kv_tokens(arch: Architecture, rollout: Rollout) -> int:
    """Tokens that vLLM's cache holds within its share of the device; 0 where weights and graphs leave no room."""
    if rollout.memory_share is None or rollout.device_bytes is None:
        return rollout.sequences * rollout.tokens
    parts = rollout.tensor_parallel
    fixed = 2 * parameters(arch) // parts + CONSTANTS.engine_context + _profile(arch, rollout)
    fixed += CONSTANTS.cuda_graphs if rollout.cuda_graphs else 0
    each = 2 * arch.layers * max(1, arch.cache_width // (1 if arch.latent else parts))
    return max(0, int(rollout.memory_share * rollout.device_bytes) - fixed) // each


def checkpoint_bytes(arch: Architecture, step: Step) -> int:
    """Bytes of a resumable checkpoint on disk: weights and moments as they are held, over all shards."""
    trained = trainable_parameters(arch, step.lora_rank)
    weights = step.frozen * parameters(arch) if step.lora_rank else 0
    return weights + 3 * step.trained * trained
