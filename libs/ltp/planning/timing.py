"""Seconds of a whole step on known hardware: training from the fitted roofline, and for RL what comes before it.

Generation is bound by memory traffic (each decode step reads the weights and the cache of its sequences) or by arithmetic,
whichever takes longer; scoring is one forward pass without gradients. Sequences are taken as full: an upper figure.
"""

from __future__ import annotations

from math import ceil

from ltp.contracts.recipe import Recipe
from ltp.core.hardware import Hardware
from ltp.core.memory import GIB
from ltp.core.model_config import Architecture, active_parameters, parameters
from ltp.core.serving import HELPER_BYTES, helpers_of
from ltp.core.step_time import Roofline, step_seconds
from ltp.planning.candidates import Layout, per_device, samples_of, step_of
from ltp.planning.models_beside import has_reference
from ltp.planning.pools import Pool

# Shares of the data sheet that an H200 reaches: 780 of 989 TFLOP/s in large products, 241 of 450 GB/s in NCCL's
# all-gather (`step_time.MEASURED_H200`), and of its 4.8 TB/s what decoding reads (prior). Taken for every other device.
_OF_FLOPS, _OF_LINK, _OF_BANDWIDTH = 0.79, 0.54, 0.8
# vLLM's time beside its arithmetic for each token of a batch: scheduling, sampling, launches of captured graphs (1.5B, 256
# tokens: 1.7 s of generation on an H200, docs/evidence/planner-h200.md).
_DECODE_OVERHEAD_SECONDS = 0.0035
# verl's own work on each micro batch: unpacking, metrics, waiting for the device (0.5B SFT on an H200, micro batches 8 to 64).
_MICRO_BATCH_SECONDS = 0.025
# verl's own work on each response, on the host: agents, reward, the store between its processes (1,024 short responses of a
# 135M model in 6.0 and 6.7 s, 256 long ones of a 1.5B model in 7.0 s on an H200 and 16 cores, docs/evidence/grpo-h200.md).
_RESPONSE_SECONDS = 0.005
# Waking the engine, sending it the weights, putting it to sleep again.
_ROLLOUT_FIXED_SECONDS = 0.3


def roofline(hardware: Hardware, devices: int) -> Roofline:
    """What the device model reaches in practice."""
    link = hardware.link * _OF_LINK if devices > 1 else 0.0
    return Roofline(hardware.flops * _OF_FLOPS, hardware.bandwidth, link)


def training_seconds(recipe: Recipe, arch: Architecture, pool: Pool, layout: Layout) -> float | None:
    """Seconds of the forward and backward passes and the optimizer of one step."""
    if pool.hardware is None or pool.kind == "cpu":
        return None
    share = per_device(recipe, pool.devices, layout.sequence_parallel)
    batches = ceil(share / layout.micro_batch)
    rates = roofline(pool.hardware, pool.devices)
    trained = step_seconds(arch, step_of(recipe, pool, layout), rates, micro_batches=batches)
    return trained + batches * _MICRO_BATCH_SECONDS


def cache_bytes(arch: Architecture) -> int:
    """Bytes of a bf16 key-value cache for one token; latent attention keeps the compressed form."""
    return 2 * arch.layers * arch.cache_width


def rollout_seconds(recipe: Recipe, arch: Architecture, pool: Pool, wide: int, concurrent: int) -> float:
    """Seconds of generating a step's responses and scoring them, with replicas of `wide` devices each."""
    section = recipe.reinforcement
    if pool.hardware is None or section is None:
        return 0.0
    rates = roofline(pool.hardware, pool.devices)
    weights, used = 2.0 * parameters(arch), 2.0 * active_parameters(arch)
    mine = recipe.training.batch_size * samples_of(recipe) * wide / pool.devices
    held = max(1.0, min(float(concurrent), mine))
    cache = float(cache_bytes(arch)) * held * recipe.training.max_length
    traffic = (weights + cache) / wide / (rates.memory_bytes * _OF_BANDWIDTH)
    arithmetic = used * held / wide / rates.flops
    each_token = max(traffic, arithmetic) + _DECODE_OVERHEAD_SECONDS
    prompts = used * mine * (recipe.training.max_length - section.max_response_length) / wide / rates.flops
    responses = recipe.training.batch_size * samples_of(recipe)
    tokens = responses * recipe.training.max_length / pool.devices
    scoring = used * tokens / (rates.flops * rates.efficiency)
    waves = ceil(mine / held)
    generated = waves * section.max_response_length * each_token + prompts + scoring
    return generated + responses * _RESPONSE_SECONDS + _ROLLOUT_FIXED_SECONDS


def host_bytes(recipe: Recipe, arch: Architecture, pool: Pool, layout: Layout) -> int:
    """Host memory that the job takes at its largest (verl.md §3.3).

    A process each device; the fp32 weights while they are loaded, on every rank where embeddings are tied, else on
    one rank of each shard group; what is offloaded; Ray, and vLLM's copy of the weights, for RL.
    """
    count, groups = parameters(arch), max(1, pool.devices // layout.shards)
    loading = 4 * count * (pool.devices if arch.tied else groups)
    trained = count if not recipe.training.lora_rank else 0
    waiting = {"none": 0, "optimizer": 8 * trained * groups, "all": (4 * count + 12 * trained) * groups}
    # A frozen reference stays on the host; a critic is loaded through it.
    loading += 4 * count * groups * (has_reference(recipe) + (recipe.algorithm == "ppo"))
    base = 3 * GIB * pool.devices
    if recipe.reinforcement is not None:
        responses = recipe.training.batch_size * samples_of(recipe)
        base += 2 * GIB + 2 * helpers_of(responses) * HELPER_BYTES
        base += 2 * count * max(1, pool.devices // max(1, layout.rollout_tensor_parallel))
    return base + max(loading, waiting[layout.offload.value])
