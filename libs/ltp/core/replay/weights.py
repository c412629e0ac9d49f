"""The weights of a decoder layer, each in the precision in which it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ltp.core.architecture import Architecture, expert_adapters
from ltp.core.memory import Step
from ltp.core.replay.tape import Weight


@dataclass
class Linear:
    """A projection's weights, with LoRA's pair beside them."""

    wide: int
    weight: Weight
    bias: Weight | None = None
    pair: tuple[Weight, Weight] | None = None

    def all(self) -> Iterator[Weight]:
        """In the order of `model.parameters()`."""
        yield self.weight
        if self.bias is not None:
            yield self.bias
        if self.pair is not None:
            yield from self.pair


@dataclass
class Layer:
    """The weights of one decoder layer."""

    attention: dict[str, Linear] = field(default_factory=dict[str, Linear])
    qk_norms: list[Weight] = field(default_factory=list[Weight])
    # Latent attention's, on the compressed queries (if they are) and on the compressed keys and values.
    latent_norms: list[Weight] = field(default_factory=list[Weight])
    shared_gate: Linear | None = None
    # Its mask is a real tensor, as rows of different lengths or a sliding window make it.
    masked: bool = False
    mlp: dict[str, Linear] = field(default_factory=dict[str, Linear])
    experts: list[Weight] = field(default_factory=list[Weight])
    router: Weight | None = None
    # LoRA's pairs on the router and on the stacked experts.
    router_pair: tuple[Weight, Weight] | None = None
    expert_pairs: list[tuple[Weight, Weight]] = field(default_factory=list[tuple[Weight, Weight]])
    norms: list[Weight] = field(default_factory=list[Weight])

    def all(self) -> list[Weight]:
        """In the order of `model.parameters()`."""
        found = [w for linear in self.attention.values() for w in linear.all()]
        found += (
            self.qk_norms
            + self.latent_norms
            + ([self.router] if self.router is not None else [])
            + list(self.router_pair or ())
        )
        found += self.experts + [weight for pair in self.expert_pairs for weight in pair]
        found += [w for linear in self.mlp.values() for w in linear.all()]
        found += self.shared_gate.all() if self.shared_gate is not None else ()
        return found + self.norms


class _Maker:
    """Makes weights as a step stores them."""

    def __init__(self, arch: Architecture, step: Step) -> None:
        self.arch, self.rank, self.trained = arch, step.lora_rank, step.trained
        self.frozen = step.frozen if step.lora_rank else step.stored

    def weight(self, count: int) -> Weight:
        return Weight(count, self.frozen, trained=not self.rank)

    def linear(self, inputs: int, wide: int, bias: bool = False, *, adapted: bool = True) -> Linear:
        rank = self.rank if adapted else 0
        pair = (Weight(rank * inputs, self.trained), Weight(rank * wide, self.trained)) if rank else None
        return Linear(wide, self.weight(inputs * wide), self.weight(wide) if bias else None, pair)


def make_layer(arch: Architecture, step: Step, index: int) -> Layer:
    """The weights of a layer, each in the precision in which it is stored."""
    make, layer = _Maker(arch, step), Layer(masked=step.padded or arch.slides(index, step.sequence))
    sparse = arch.sparse(index)
    _attention(make, layer)
    wide = arch.intermediate
    if sparse:
        _experts(make, layer)
        wide = arch.shared_intermediate
    h, each = arch.hidden, arch.adapts_block
    if wide and arch.fused_gate:
        layer.mlp = {"gate_up": make.linear(h, 2 * wide, arch.mlp_bias), "down": make.linear(wide, h, arch.mlp_bias)}
    elif wide:
        names = ("gate", "up") if arch.gated else ("up",)
        layer.mlp = {name: make.linear(h, wide, arch.mlp_bias, adapted=each) for name in names}
        layer.mlp["down"] = make.linear(wide, h, arch.mlp_bias, adapted=each)
    if sparse and arch.shared_gate:
        layer.shared_gate = make.linear(h, 1)
    if arch.norm_kind != "plain":
        layer.norms = [make.weight(h) for _ in range(arch.norms)]
    return layer


def _attention(make: _Maker, layer: Layer) -> None:
    arch, parts = make.arch, layer.attention
    h, query, kv = arch.hidden, arch.query_width, arch.kv_width
    if arch.latent:
        heads, key = arch.heads, arch.key_width
        if arch.query_rank:
            parts["q_a"] = make.linear(h, arch.query_rank, arch.qkv_bias)
            layer.latent_norms.append(make.weight(arch.query_rank))
        parts["q"] = make.linear(arch.query_rank or h, heads * key)
        parts["kv_a"] = make.linear(h, arch.kv_rank + arch.rope_dim, arch.qkv_bias)
        layer.latent_norms.append(make.weight(arch.kv_rank))
        parts["kv_b"] = make.linear(arch.kv_rank, heads * (arch.nope_dim + arch.value_dim))
        query = heads * arch.value_dim
    elif arch.fused_qkv:
        parts["qkv"] = make.linear(h, query + 2 * kv, arch.qkv_bias)
    else:
        for name, wide in (("q", query), ("k", kv), ("v", kv)):
            parts[name] = make.linear(h, wide, arch.qkv_bias)
    parts["o"] = make.linear(query, h, arch.output_bias)
    if arch.qk_norm:
        wide = (query, kv) if arch.qk_norm_wide else (arch.head_dim, arch.head_dim)
        layer.qk_norms = [make.weight(count) for count in wide]


def _experts(make: _Maker, layer: Layer) -> None:
    arch, each = make.arch, make.arch.expert_intermediate
    layer.experts = [make.weight(arch.experts * 2 * each * arch.hidden), make.weight(arch.experts * each * arch.hidden)]
    layer.router = make.weight(arch.experts * arch.hidden)
    if make.rank and arch.adapts_experts:
        counts = expert_adapters(arch, make.rank)
        pairs = [(Weight(count, make.trained), Weight(back, make.trained)) for count, back in counts]
        layer.router_pair, layer.expert_pairs = pairs[0], pairs[1:]
