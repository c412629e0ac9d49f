"""What was measured of a device kind and cannot be counted: the context, NCCL, margins; each with its evidence.

A kind that nobody measured gets the H200's figures: contexts differ by tens of MiB between kinds, and the conformal interval
of `ltp.core.calibration` widens with the first runs that say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from ltp.core.training_step import GIB, Precision, Step


@dataclass(frozen=True)
class DeviceConstants:
    """Bytes outside the allocator, and shares that an upper bound lies above a prediction."""

    # CUDA context (527 MiB) and the libraries' code and workspaces, in a process of its own.
    context: int
    # With NCCL over one device, and over two.
    one_shard: int
    two_shards: int
    # Prior: NCCL's buffers grow with the peers, by about as much for each doubling as from one device to two.
    each_doubling: int
    # vLLM's context and libraries beside the trainer's, and its CUDA graphs (planner.md §3: together 1-3 GiB).
    engine_context: int
    cuda_graphs: int
    # Over the closed form's largest under-prediction on measured rows (0.3 %): 2 %, and 3 % for splits of the
    # allocator that cannot be given back. Processors are not measured.
    margin: float
    processor_margin: float
    evidence: str


CONSTANTS = DeviceConstants(
    context=804_061_184,
    one_shard=1_389_166_592,
    two_shards=1_687_027_712,
    each_doubling=int(0.27 * GIB),
    engine_context=GIB,
    cuda_graphs=GIB,
    margin=0.05,
    processor_margin=0.20,
    evidence="H200, torch 2.11.0+cu130, 39 steps of 2026-11-22: tests/data/gpu_memory_h200.jsonl, field `outside`",
)

# Interpreter, torch and verl: 0.5 GiB resident measured after the trainer's imports; as much again for its launcher.
_PROCESS = GIB
# Ray's and verl's processes beside an RL trainer (verl-on-cpu.md §3b: about 3.5 GB).
_RAY_PROCESSES = int(3.5 * GIB)


def outside_allocator(step: Step, *, with_ray: bool = False) -> int:
    """Bytes that a training process takes beside its allocator: context, libraries, and NCCL where it shards."""
    if step.precision is Precision.FP32:
        return _PROCESS + (_RAY_PROCESSES if with_ray else 0)
    peers = step.shards * step.replicas
    if not step.gathers:
        return CONSTANTS.context
    if peers == 1:
        return CONSTANTS.one_shard
    return CONSTANTS.two_shards + int(CONSTANTS.each_doubling * (log2(peers) - 1))
