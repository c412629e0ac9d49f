"""What autograd keeps of one decoder layer, in bytes, by counting what each module of transformers saves for backward.

Coefficients are finite differences of traces of the models' own code (tests/data/traces.jsonl holds both together).
"""

from __future__ import annotations

from ltp.core.architecture import Architecture, adapted_shapes
from ltp.core.training_step import Precision, Step


def layer_activations(arch: Architecture, step: Step) -> int:
    """Bytes that autograd keeps for one layer without checkpointing, of the widest kind that the model has.

    Per token, h hidden, i feed-forward, A and KV query and key widths, a and k their heads, r LoRA rank:
    16h + 8i + 4A + 4KV + 4a + 12; query/key norms 6A + 6KV + 4(a + k); autocast 10h; LoRA 12h + 2i + 4A + 28r (with
    query/key norms 2A - 2KV for 4A). In fp32 the norms' casts vanish and the rest doubles:
    24h + 16i + 8A + 8KV + 4a + 8; query/key norms 8A + 8KV + 4(a + k), LoRA 12r.
    Experts, K of E of width m: K(4h + 8m + 39) + 4E + 6 for 8i, and 8i of a dense block beside them. Gemma's norms keep 2h
    more each, and 8h where they follow a block; layer norm keeps 4h for 8h; no gate: 4i for 8i.
    Phi copies the attention's output (2A) and keeps the fused projection whole (2A + 2KV). A mask adds one bias over all
    pairs, and keys and values for every query head. Latent attention keeps joined queries and keys, 4 times their width, what
    keys and values were expanded to, and the fp32 input of its router.
    Tensor parallelism divides i, A, KV and m; Ulysses divides the tokens.
    """
    kinds = {arch.sparse(0), arch.experts > 0}
    return max(activations_of(arch, step, sparse=kind) for kind in kinds)


def activations_of(arch: Architecture, step: Step, *, sparse: bool) -> int:
    """As `layer_activations`, of a layer that routes to experts or of one that does not."""
    h, a, k, parts = arch.hidden, arch.heads, arch.kv_heads, step.tensor_parallel
    query, kv, rank = arch.query_width // parts, arch.kv_width // parts, step.lora_rank
    wide = 2 if step.precision is Precision.FP32 else 1
    block = _block(arch, parts, sparse=sparse)
    if wide == 2:
        each = 24 * h + 2 * block + 8 * query + 8 * kv + 4 * a + 8
        each += 8 * (query + kv) + 4 * (a + k) if arch.qk_norm else 0
        return step.tokens * (each + 12 * rank)
    normed = (10 if arch.norm_kind == "gemma" else 6) * (query + kv) + 4 * (a + k) // parts if arch.qk_norm else 0
    each = _attended(arch, parts) + 4 * a // parts + 12
    each += 10 * h if step.precision is Precision.AMP else 0
    if rank:
        each += _adapted(arch, step, block, sparse=sparse) + (
            4 * (query + kv) + 4 * (a + k) // parts if arch.qk_norm else 0
        )
    else:
        each += _norms(arch) + block + normed
    kept = step.tokens * each
    if step.padded or arch.slides(0, step.sequence):
        # At the window's length and beyond, as if every layer had one.
        kept += _masked(arch, step)
    if rank and sparse and arch.adapts_experts:
        # peft folds each expert's adapters into a copy of its weights.
        kept += 2 * 3 * arch.experts * arch.expert_intermediate * h // parts
    return kept


def _masked(arch: Architecture, step: Step) -> int:
    """A bias over all pairs of positions, and keys and values for every query head."""
    spread = 4 * (arch.query_width - arch.kv_width) if arch.kv_heads > 1 and not arch.latent else 0
    return step.tokens * spread // step.tensor_parallel + 2 * step.masked_pairs


def mask_bytes(arch: Architecture, step: Step) -> int:
    """What rows of different lengths add to a step of full ones: the mask, and in every layer what it makes attention keep.

    One row at a time has no padding; packed rows have no mask.
    """
    if step.padded or step.tokens_packed is not None or step.micro_batch == 1:
        return 0
    layers = 1 if step.checkpointing else arch.layers
    return layers * _masked(arch, step) + step.masked_pairs


def _adapted(arch: Architecture, step: Step, block: int, *, sparse: bool) -> int:
    """Bytes a token of norms and feed-forward block where adapters learn alone, with what the adapters keep.

    Frozen norms keep their input alone, frozen projections nothing. Each adapter keeps its input in its own precision (a copy
    of 4 bytes a number where that is fp32, none under FSDP, which casts it to bf16) and r numbers.
    """
    h, parts = arch.hidden, step.tensor_parallel
    shapes = adapted_shapes(arch, sparse=sparse)
    norms = (2 if arch.norm_kind == "layer" else 4) * arch.norms * h
    if step.gathers or step.precision is Precision.AMP:
        return norms + 2 * h * min(2, arch.norms) + block + 2 * step.lora_rank * len(shapes)
    inputs = sum(shape[1] for shape in shapes)
    # The product before the last projection is kept as that copy alone.
    inner = 0 if sparse or not arch.adapts_block else 2 * arch.intermediate // parts
    routed = 2 * h if sparse and arch.adapts_experts else 0
    return norms + 4 * inputs + 4 * step.lora_rank * len(shapes) + block - inner + routed


def _attended(arch: Architecture, parts: int) -> int:
    """Bytes a token of what attention keeps: queries, keys, values and its output."""
    if arch.latent:
        key, heads = arch.heads * arch.key_width, arch.heads
        wide = 4 * key + 2 * heads * (arch.nope_dim + 2 * arch.value_dim)
        return wide // parts + 8 * (arch.kv_rank + arch.query_rank) + 4 * arch.hidden
    query, kv = arch.query_width // parts, arch.kv_width // parts
    more = 2 * query if arch.rotary_dim else 0
    more += 2 * (query + kv) if arch.fused_qkv else 0
    return 4 * query + 4 * kv + more


def _block(arch: Architecture, parts: int, *, sparse: bool) -> int:
    """Bytes a token of the feed-forward block or the experts, in bf16."""
    if sparse:
        each = 4 * arch.hidden + 8 * arch.expert_intermediate // parts + 39
        gated = 2 * arch.hidden if arch.shared_gate else 0
        return arch.experts_per_token * each + 4 * arch.experts + 6 + 8 * arch.shared_intermediate // parts + gated
    # Phi's GELU is written out, and keeps three more.
    factor = 8 if arch.gated else 10 if arch.model_type == "phi" else 4
    return factor * arch.intermediate // parts


def _norms(arch: Architecture) -> int:
    """Bytes a token of the norms around the blocks, with their outputs, which the projections keep."""
    if arch.norm_kind == "layer":
        return 4 * arch.norms * arch.hidden
    if arch.norm_kind == "gemma":
        return (20 + 8 * (arch.norms - 2)) * arch.hidden
    return (16 + 6 * (arch.norms - 2)) * arch.hidden
