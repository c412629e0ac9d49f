"""The few numbers of a decoder-only transformer from which memory, time and weight names follow.

The weight names and shapes are those of the models as they are published (safetensors), which transformers reads and writes
(5.10, `models/*/modeling_*.py`): a mixture's experts are one by one there, and stacked in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer, dense or a mixture of experts. Widths are in elements."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    # The output head shares the weights of the embedding.
    tied: bool
    max_positions: int
    qkv_bias: bool
    # Bias of the attention's output projection, and of the three projections of the feed-forward block.
    output_bias: bool
    mlp_bias: bool
    # RMS norm on each head's queries and keys; `qk_norm_wide` on all heads at once (OLMo 2).
    qk_norm: bool
    # Mixture of experts: how many, how many a token uses, their width; a dense block beside them; leading dense layers.
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0
    # rms, gemma (RMS norm whose weight is applied in fp32), layer, or plain (layer norm in fp32 without weights); norms a
    # layer, of the residual's width.
    norm_kind: str = "rms"
    norms: int = 2
    gated: bool = True
    fused_qkv: bool = False
    fused_gate: bool = False
    # Attention and feed-forward block read the same norm (Phi).
    parallel: bool = False
    # Multi-head latent attention (DeepSeek): ranks of the compressed queries (0: none) and keys and values.
    latent: bool = False
    query_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    # Width of a head's key part without position; with `rope_dim` it makes up a key.
    nope_dim: int = 0
    final_softcap: bool = False
    # Biases beside layer norms, and on the output head (Phi).
    norm_bias: bool = False
    head_bias: bool = False
    # Qwen2-MoE weighs its shared expert by a gate.
    shared_gate: bool = False
    qk_norm_wide: bool = False
    # Norms follow the blocks instead of preceding them (OLMo 2).
    post_norms: bool = False
    # Queries, keys and values are clamped in place (OLMo).
    clips: bool = False
    # Granite multiplies the embedding, each block's output and the logits.
    scales: bool = False
    # Numbers of a head that are rotated, joined again with the rest (Phi); 0: all of them, in place.
    rotary_dim: int = 0
    # A sliding window's length, and which layers have one; from that length on the mask is a real tensor.
    window: int = 0
    windowed: tuple[bool, ...] = ()

    @cached_property
    def counted(self) -> dict[int, object]:
        """What the memory model has counted already, by LoRA rank: a search asks thousands of times."""
        return {}

    @property
    def adapts_experts(self) -> bool:
        """Whether peft's `all-linear` reaches the stacked experts (0.21: where it knows transformers 4's names)."""
        return self.latent or self.model_type in ("mixtral", "qwen3_moe", "olmoe")

    @property
    def adapts_block(self) -> bool:
        """Whether it reaches the dense and shared feed-forward blocks: not beside DeepSeek's experts."""
        return not (self.latent and self.experts)

    @property
    def key_width(self) -> int:
        """Width of one head's query and key: with latent attention the part without position and the part with."""
        return self.nope_dim + self.rope_dim if self.latent else self.head_dim

    @property
    def cache_width(self) -> int:
        """Numbers that a generator keeps for a token in each layer: keys and values, or their latent form."""
        return self.kv_rank + self.rope_dim if self.latent else 2 * self.kv_width

    def slides(self, index: int, sequence: int) -> bool:
        """Whether layer `index` needs its window's mask at rows of that length (transformers `masking_utils`)."""
        return bool(self.window) and sequence >= self.window and index < len(self.windowed) and self.windowed[index]

    @property
    def sparse_layers(self) -> int:
        """How many layers route tokens to experts."""
        return max(0, self.layers - self.dense_layers) if self.experts else 0

    def sparse(self, index: int) -> bool:
        """Whether layer `index` routes tokens to experts."""
        return self.experts > 0 and index >= self.dense_layers

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim


def weight_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight in the model's safetensors; a tied output head has none of its own."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (arch.vocab, arch.hidden)}
    for index in range(arch.layers):
        layer = _layer_shapes(arch, sparse=arch.sparse(index))
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer}
    final = "model.final_layernorm" if arch.model_type == "phi" else "model.norm"
    shapes |= dict(_norm_shapes(arch, final))
    if not arch.tied:
        shapes["lm_head.weight"] = (arch.vocab, arch.hidden)
    if arch.head_bias:
        shapes["lm_head.bias"] = (arch.vocab,)
    return shapes


@lru_cache(maxsize=256)
def parameters(arch: Architecture) -> int:
    """Exact number of weights; tied ones count once."""
    embeddings = arch.vocab * arch.hidden * (1 if arch.tied else 2) + (arch.vocab if arch.head_bias else 0)
    dense = arch.layers if not arch.experts else min(arch.dense_layers, arch.layers)
    layers = dense * layer_parameters(arch, sparse=False) if dense else 0
    if dense < arch.layers:
        layers += (arch.layers - dense) * layer_parameters(arch, sparse=True)
    return layers + embeddings + sum(prod(shape) for _, shape in _norm_shapes(arch, "norm"))


@lru_cache(maxsize=256)
def layer_parameters(arch: Architecture, *, sparse: bool | None = None) -> int:
    """Number of weights of one transformer layer; of a routed one where the model has those, unless told."""
    routed = arch.experts > 0 if sparse is None else sparse
    total = sum(prod(shape) for _, shape in _shapes_but_experts(arch, sparse=routed))
    return total + (arch.experts * 3 * arch.expert_intermediate * arch.hidden if routed else 0)


@lru_cache(maxsize=256)
def active_parameters(arch: Architecture) -> int:
    """Weights that multiply one token: all but the embedding's table and the experts that the token is not sent to."""
    idle = (arch.experts - arch.experts_per_token) * 3 * arch.expert_intermediate * arch.hidden if arch.experts else 0
    table = 0 if arch.tied else arch.vocab * arch.hidden
    return parameters(arch) - table - arch.sparse_layers * idle


@lru_cache(maxsize=256)
def linear_shapes(arch: Architecture, *, sparse: bool | None = None) -> tuple[tuple[int, int], ...]:
    """(out, in) of the linear projections of one layer, which are what LoRA's target `all-linear` adapts.

    Experts and routers are not among them: see `expert_adapters`.
    """
    routed = arch.experts > 0 if sparse is None else sparse
    return tuple(shape for _, shape, _ in _linears(arch, sparse=routed))


def expert_adapters(arch: Architecture, rank: int) -> tuple[tuple[int, int], ...]:
    """Numbers in LoRA's pair on the router, on the experts' joined gate and up projections, and on their down projection.

    peft (0.21, on transformers 5) adapts stacked experts too; the joined projection gets twice the rank.
    """
    hidden, wide, experts = arch.hidden, arch.expert_intermediate, arch.experts
    router = (rank * hidden, experts * rank)
    joined = (experts * 2 * rank * hidden, 2 * wide * experts * 2 * rank)
    return router, joined, (experts * rank * wide, hidden * experts * rank)


@lru_cache(maxsize=256)
def adapter_parameters(arch: Architecture, rank: int) -> int:
    """Numbers in rank-`rank` adapters on every linear projection, experts and routers included."""
    total = 0
    for sparse in (False, True):
        layers = sum(arch.sparse(index) is sparse for index in range(arch.layers))
        if layers:
            each = rank * sum(sum(shape) for shape in adapted_shapes(arch, sparse=sparse))
            each += sum(sum(pair) for pair in expert_adapters(arch, rank)) if sparse and arch.adapts_experts else 0
            total += layers * each
    return total


@lru_cache(maxsize=256)
def adapted_shapes(arch: Architecture, *, sparse: bool) -> tuple[tuple[int, int], ...]:
    """(out, in) of the projections of a layer that LoRA's `all-linear` adapts one by one."""
    names = _linears(arch, sparse=sparse)
    return tuple(shape for name, shape, _ in names if arch.adapts_block or name.startswith("self_attn"))


def _linears(arch: Architecture, *, sparse: bool) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Name, (out, in) and whether it has a bias."""
    hidden, query, kv = arch.hidden, arch.query_width, arch.kv_width
    out = "dense" if arch.model_type == "phi" else "o_proj"
    if arch.latent:
        yield from _latent_linears(arch)
    elif arch.fused_qkv:
        yield "self_attn.qkv_proj", (query + 2 * kv, hidden), arch.qkv_bias
        yield "self_attn.o_proj", (hidden, query), arch.output_bias
    else:
        for name, wide in (("q", query), ("k", kv), ("v", kv)):
            yield f"self_attn.{name}_proj", (wide, hidden), arch.qkv_bias
        yield f"self_attn.{out}", (hidden, query), arch.output_bias
    block, wide = ("mlp.shared_expert", arch.shared_intermediate) if sparse else ("mlp", arch.intermediate)
    if sparse and arch.model_type.startswith("deepseek"):
        block = "mlp.shared_experts"
    if not wide:
        return
    if arch.fused_gate:
        yield f"{block}.gate_up_proj", (2 * wide, hidden), arch.mlp_bias
        yield f"{block}.down_proj", (hidden, wide), arch.mlp_bias
        return
    names = {"phi": ("fc1", "fc2"), "starcoder2": ("c_fc", "c_proj")}.get(arch.model_type, ("up_proj", "down_proj"))
    if arch.gated:
        yield f"{block}.gate_proj", (wide, hidden), arch.mlp_bias
    yield f"{block}.{names[0]}", (wide, hidden), arch.mlp_bias
    yield f"{block}.{names[1]}", (hidden, wide), arch.mlp_bias
    if sparse and arch.shared_gate:
        yield "mlp.shared_expert_gate", (1, hidden), False


def _latent_linears(arch: Architecture) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """DeepSeek's attention: queries, keys and values through low-rank bottlenecks."""
    hidden, heads, key = arch.hidden, arch.heads, arch.nope_dim + arch.rope_dim
    if arch.query_rank:
        yield "self_attn.q_a_proj", (arch.query_rank, hidden), arch.qkv_bias
        yield "self_attn.q_b_proj", (heads * key, arch.query_rank), False
    else:
        yield "self_attn.q_proj", (heads * key, hidden), False
    yield "self_attn.kv_a_proj_with_mqa", (arch.kv_rank + arch.rope_dim, hidden), arch.qkv_bias
    yield "self_attn.kv_b_proj", (heads * (arch.nope_dim + arch.value_dim), arch.kv_rank), False
    yield "self_attn.o_proj", (hidden, heads * arch.value_dim), arch.output_bias


def _norm_shapes(arch: Architecture, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if arch.norm_kind == "plain":
        return
    yield f"{name}.weight", (arch.hidden,)
    if arch.norm_bias:
        yield f"{name}.bias", (arch.hidden,)


def _shapes_but_experts(arch: Architecture, *, sparse: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape, bias in _linears(arch, sparse=sparse):
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]
    if arch.qk_norm:
        wide = (arch.query_width, arch.kv_width) if arch.qk_norm_wide else (arch.head_dim, arch.head_dim)
        yield "self_attn.q_norm.weight", wide[:1]
        yield "self_attn.k_norm.weight", wide[1:]
    if arch.latent and arch.query_rank:
        yield "self_attn.q_a_layernorm.weight", (arch.query_rank,)
    if arch.latent:
        yield "self_attn.kv_a_layernorm.weight", (arch.kv_rank,)
    if sparse:
        gate = "block_sparse_moe.gate" if arch.model_type == "mixtral" else "mlp.gate"
        yield f"{gate}.weight", (arch.experts, arch.hidden)
    if arch.post_norms:
        yield from _norm_shapes(arch, "post_attention_layernorm")
        yield from _norm_shapes(arch, "post_feedforward_layernorm")
        return
    yield from _norm_shapes(arch, "input_layernorm")
    if arch.norms > 1:
        yield from _norm_shapes(arch, "post_attention_layernorm")
    if arch.norms == 4:
        yield from _norm_shapes(arch, "pre_feedforward_layernorm")
        yield from _norm_shapes(arch, "post_feedforward_layernorm")


def _layer_shapes(arch: Architecture, *, sparse: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _shapes_but_experts(arch, sparse=sparse)
    if not sparse:
        return
    mixtral = arch.model_type == "mixtral"
    block = "block_sparse_moe" if mixtral else "mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    wide, hidden = arch.expert_intermediate, arch.hidden
    for index in range(arch.experts):
        yield f"{block}.experts.{index}.{gate}.weight", (wide, hidden)
        yield f"{block}.experts.{index}.{up}.weight", (wide, hidden)
        yield f"{block}.experts.{index}.{down}.weight", (hidden, wide)
