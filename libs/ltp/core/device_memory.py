"""Turns the peak of a training step into what a device must have: the allocator's bytes, what lies outside, a margin.

GRPO adds the generator that shares the device. That part is a first model, put together from known terms
(docs/memory.md), and on an H200 it held as a bound, not as a point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log2

from ltp.core.memory import GIB, LossHead, Precision, Step, states, training_peak
from ltp.core.model_config import Architecture, parameters

# Outside the allocator: CUDA context, library workspaces, and one NCCL communicator (planner.md §7, on an H200).
_CONTEXT_UNSHARDED = 804_061_184
_CONTEXT_ONE_SHARD = 1_389_166_592
_CONTEXT_TWO_SHARDS = 1_687_027_712
# Prior: NCCL's buffers grow with the peers, by about as much for each doubling as from one device to two.
_CONTEXT_EACH_DOUBLING = int(0.27 * GIB)
# Interpreter, torch and verl: 0.5 GiB resident measured after the trainer's imports; as much again for its launcher.
_PROCESS = GIB
# Ray's and verl's processes beside an RL trainer (verl-on-cpu.md §3b: about 3.5 GB).
_RAY_PROCESSES = int(3.5 * GIB)
# vLLM asleep keeps its context and CUDA graphs, awake also its profile run's activations (planner.md §3: 1-3 GiB).
_ENGINE_OVERHEAD = 2 * GIB

# Upper bound over the prediction: the largest error of the measured rows (2 %), and 3 % for splits that the CUDA
# allocator cannot give back. The policy's head is fitted to three rows; processors are not measured.
_MARGIN, _MARGIN_POLICY, _MARGIN_PROCESSOR = 0.05, 0.13, 0.20


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
    # Every phase (init, rollout, log_prob, update, optimizer, checkpoint, resume) -> component -> bytes.
    phases: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    # What the allocator holds at its peak beyond what it has handed out; not part of `components`.
    fragmentation: int = 0
    # Share of the upper bound over the point, from the residuals of measured steps.
    margin: float = 0.0

    @property
    def device_bytes(self) -> int:
        """What the driver would show: allocated, held back by the allocator, and outside it."""
        return self.bytes + self.fragmentation

    @property
    def bytes(self) -> int:
        """The predicted peak itself."""
        return sum(self.components.values())


def estimate(arch: Architecture, step: Step, rollout: Rollout | None = None) -> Estimate:
    """Peak of training, or of generation where that needs more; the two take turns on the device."""
    on_cpu = step.precision is Precision.FP32
    peak = training_peak(arch, step)
    stage, components = peak.stage, dict(peak.components)
    if rollout is not None:
        resident, awake = _generator(arch, rollout, on_cpu)
        components["rollout"] = resident
        held = states(arch, step)
        generating = {"parameters": held.weights, "optimizer": held.optimizer, "rollout": resident + awake}
        if sum(generating.values()) > sum(components.values()):
            stage, components = "rollout", generating
    policy = step.loss_head is LossHead.POLICY
    margin = _MARGIN_PROCESSOR if on_cpu else _MARGIN_POLICY if policy else _MARGIN
    upper = int(sum(components.values()) * (1 + margin))
    components["context"] = _context(step, rollout is not None)
    return Estimate(stage, components, upper + components["context"])


def outside_allocator(step: Step) -> int:
    """Bytes that a training process takes beside its allocator: context, libraries, and NCCL where it shards."""
    return _context(step, with_ray=False)


def _context(step: Step, with_ray: bool) -> int:
    if step.precision is Precision.FP32:
        return _PROCESS + (_RAY_PROCESSES if with_ray else 0)
    if not step.gathers:
        return _CONTEXT_UNSHARDED
    if step.shards == 1:
        return _CONTEXT_ONE_SHARD
    return _CONTEXT_TWO_SHARDS + int(_CONTEXT_EACH_DOUBLING * (log2(step.shards) - 1))


def _generator(arch: Architecture, rollout: Rollout, on_cpu: bool) -> tuple[int, int]:
    """Bytes of the generator that stay while training runs, and that come on top while it generates.

    On a GPU vLLM sleeps and gives weights and cache back. On processors the transformers server keeps fp32 weights,
    and a second copy travels through Ray's object store at each update.
    """
    width = 4 if on_cpu else 2
    weights = width * parameters(arch)
    cache = 2 * width * arch.layers * arch.kv_width * rollout.sequences * rollout.tokens
    if on_cpu:
        return 2 * weights, cache + 4 * arch.vocab * rollout.sequences
    return _ENGINE_OVERHEAD, weights + cache
