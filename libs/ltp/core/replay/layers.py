"""The layers of decoder-only transformers, written as transformers' modules are, over the operations of this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ltp.core.architecture import Architecture, expert_adapters
from ltp.core.memory import Step
from ltp.core.replay.operations import Gradients, Operations
from ltp.core.replay.tape import Buffer, Value, Weight


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
        found += self.qk_norms + ([self.router] if self.router is not None else []) + list(self.router_pair or ())
        found += self.experts + [weight for pair in self.expert_pairs for weight in pair]
        found += [w for linear in self.mlp.values() for w in linear.all()]
        return found + self.norms


def make_layer(arch: Architecture, step: Step, *, sparse: bool) -> Layer:
    """The weights of a layer, each in the precision in which it is stored."""
    rank, stored = step.lora_rank, step.stored
    frozen = step.frozen if rank else stored

    def weight(count: int) -> Weight:
        return Weight(count, frozen, trained=not rank)

    def linear(inputs: int, wide: int, bias: bool) -> Linear:
        pair = (Weight(rank * inputs, step.trained), Weight(rank * wide, step.trained)) if rank else None
        return Linear(wide, weight(inputs * wide), weight(wide) if bias else None, pair)

    h, query, kv, wide = arch.hidden, arch.query_width, arch.kv_width, arch.intermediate
    layer = Layer()
    if arch.fused_qkv:
        layer.attention["qkv"] = linear(h, query + 2 * kv, arch.qkv_bias)
    else:
        layer.attention["q"] = linear(h, query, arch.qkv_bias)
        layer.attention["k"] = linear(h, kv, arch.qkv_bias)
        layer.attention["v"] = linear(h, kv, arch.qkv_bias)
    layer.attention["o"] = linear(query, h, arch.output_bias)
    if arch.qk_norm:
        layer.qk_norms = [weight(arch.head_dim), weight(arch.head_dim)]
    if sparse:
        each = arch.expert_intermediate
        layer.experts = [weight(arch.experts * 2 * each * h), weight(arch.experts * each * h)]
        layer.router = weight(arch.experts * h)
        if rank and arch.adapts_experts:
            pairs = [
                (Weight(count, step.trained), Weight(back, step.trained)) for count, back in expert_adapters(arch, rank)
            ]
            layer.router_pair, layer.expert_pairs = pairs[0], pairs[1:]
        wide = arch.shared_intermediate
    if wide and arch.fused_gate:
        layer.mlp = {"gate_up": linear(h, 2 * wide, arch.mlp_bias), "down": linear(wide, h, arch.mlp_bias)}
    elif wide:
        names = ("gate", "up") if arch.gated else ("up",)
        layer.mlp = {name: linear(h, wide, arch.mlp_bias) for name in names}
        layer.mlp["down"] = linear(wide, h, arch.mlp_bias)
    layer.norms = [weight(h) for _ in range(arch.norms)]
    return layer


class Decoder(Operations):
    """Runs a layer of the architecture on a batch."""

    arch: Architecture
    step: Step

    def project(self, x: Value, linear: Linear) -> Value:
        """A projection, adapted where it has a pair."""
        if linear.pair is not None:
            return self.adapted(x, linear.weight, linear.bias, linear.pair, linear.wide)
        return self.linear(x, linear.weight, linear.bias, linear.wide)

    def normed(self, x: Value, weight: Weight, rows: int) -> Value:
        """The architecture's norm."""
        if self.arch.norm_kind == "layer":
            return self.layer_norm(x, weight, None, rows)
        return self.norm(x, weight, rows, upcast_weight=self.arch.norm_kind == "gemma")

    def layer(self, x: Value, layer: Layer) -> Value:
        """Norm, attention, residual, norm, feed-forward, residual; Gemma also norms what comes out of each."""
        tokens, norms = self.step.tokens, iter(layer.norms)
        sandwich = self.arch.norms == 4
        h = self.normed(x, next(norms), tokens)
        if self.arch.parallel:
            mixed = self.attend(h, layer)
            return self.add(self.add(mixed, self.feed_forward(h, layer)), x)
        h = self.attend(h, layer)
        if sandwich:
            h = self.normed(h, next(norms), tokens)
        x = self.add(x, h)
        del h
        h = self.normed(x, next(norms), tokens)
        h = self.mixture(h, layer) if layer.experts else self.feed_forward(h, layer)
        if sandwich:
            h = self.normed(h, next(norms), tokens)
        return self.add(x, h)

    def attend(self, h: Value, layer: Layer) -> Value:
        """Projections, norms on queries and keys, rotation, attention, output projection."""
        arch, tokens, att = self.arch, self.step.tokens, layer.attention
        if "qkv" in att:
            fused = self.project(h, att["qkv"])
            q, k, v = self.split(fused, (arch.query_width, arch.kv_width, arch.kv_width))
            del fused
        else:
            q = self.head_norm(self.project(h, att["q"]), layer.qk_norms[:1], tokens * arch.heads)
            k = self.head_norm(self.project(h, att["k"]), layer.qk_norms[1:], tokens * arch.kv_heads)
            v = self.project(h, att["v"])
        q_turned = self.rotate(q, max(self.width, self.residual))
        k_turned = self.rotate(k, max(self.width, self.residual))
        del q, k
        mixed = self.attention(q_turned, k_turned, v, tokens * arch.heads)
        del v
        return self.project(mixed, att["o"])

    @property
    def residual(self) -> int:
        """Bytes of a number in the residual stream: fp32 under autocast alone."""
        return 4 if self.tape.autocast and not self.step.gathers else self.width

    def head_norm(self, x: Value, weights: list[Weight], rows: int) -> Value:
        """Norm on each head, where the architecture has it."""
        return self.normed(x, weights[0], rows) if weights else x

    def split(self, x: Value, widths: tuple[int, int, int]) -> tuple[Value, Value, Value]:
        """Views into a fused projection; backward gathers their gradients into one."""
        total = sum(widths)
        count, width = x.count, x.width

        def gathered(g: Buffer, saved: Any) -> Gradients:
            return (self.new(count, width),)

        parts = (Value(x.buffer, count * part // total, width) for part in widths)
        q, k, v = (self.tape.out(part, [x], None, gathered) for part in parts)
        return q, k, v

    def feed_forward(self, h: Value, layer: Layer) -> Value:
        """down(act(gate(h)) * up(h)), or down(act(up(h))) without a gate."""
        mlp = layer.mlp
        if "gate_up" in mlp:
            both = self.project(h, mlp["gate_up"])
            half = both.count // 2
            count, width = both.count, both.width
            gate, up = (
                self.tape.out(Value(both.buffer, half, width), [both], None, lambda g, s: (self.new(count, width),))
                for _ in range(2)
            )
            del both
            return self.project(self.multiply(up, self.activation(gate)), mlp["down"])
        if "gate" not in mlp:
            formula = self.arch.model_type == "phi"
            return self.project(self.activation(self.project(h, mlp["up"]), formula=formula), mlp["down"])
        gate = self.activation(self.project(h, mlp["gate"]))
        return self.project(self.multiply(gate, self.project(h, mlp["up"])), mlp["down"])

    def mixture(self, h: Value, layer: Layer) -> Value:
        """Routed experts by grouped products over the rows sorted by expert (transformers' `grouped_mm`)."""
        arch, tokens = self.arch, self.step.tokens
        rows = tokens * arch.experts_per_token
        wide, hidden, width = arch.expert_intermediate, arch.hidden, self.width
        assert layer.router is not None
        narrow = self.cast(h, width)
        scores = self.linear(narrow, layer.router, None, arch.experts)
        for weight in reversed(layer.experts if layer.expert_pairs else []):
            # peft folds the adapters in once for nothing, when it registers them.
            folded = self.new(weight.count)
            del folded
        routed = self.route(scores, rows)
        del scores
        chosen = self.gather(narrow, rows, hidden)
        first = self.expert_weight(layer, 0)
        both = self.grouped(chosen, first, rows, 2 * wide)
        del chosen
        halves = [
            self.tape.out(
                Value(both.buffer, rows * wide, width), [both], None, lambda g, s: (self.new(rows * wide, width),)
            )
            for _ in range(2)
        ]
        del both
        inner = self.multiply(self.activation(halves[0]), halves[1])
        del halves
        # peft holds both folded weights until the block is done.
        second = self.expert_weight(layer, 1)
        outer = self.grouped(inner, second, rows, hidden)
        del inner
        out = self.combine(outer, routed, rows, hidden, tokens)
        del first, second
        if layer.mlp:
            out = self.add(out, self.feed_forward(h, layer))
        return out

    def route(self, scores: Value, rows: int) -> Value:
        """Softmax over the experts in fp32, the best few, and the order by expert."""
        n, width = scores.count, scores.width
        wide = self.new(n, 4)
        soft = self.new(n, 4)
        del wide
        best, indices = self.new(rows, 4), self.new(rows, 8)
        ordered = [self.new(rows, 8) for _ in range(3)]
        saved = self.tape.keep(soft, best, indices, ordered)
        out = Value(self.new(rows, width), rows, width)
        del soft, best, indices, ordered

        def back(g: Buffer, saved: Any) -> Gradients:
            spread = self.new(n, 4)
            del g, spread
            soft = self.new(n, 4)
            del soft
            return (self.new(n, width),)

        return self.tape.out(out, [scores], saved, back)

    def gather(self, h: Value, rows: int, hidden: int) -> Value:
        """The rows each expert gets."""
        count, width = h.count, h.width
        saved = self.tape.keep()
        out = Value(self.new(rows * hidden, width), rows * hidden, width)

        def back(g: Buffer, saved: Any) -> Gradients:
            filled = self.new(rows * hidden, width)
            del g
            zeros = self.new(count, width)
            summed = self.new(count, width)
            del zeros, filled
            return (summed,)

        return self.tape.out(out, [h], saved, back)

    def expert_weight(self, layer: Layer, which: int) -> Value:
        """The stacked weights, with the adapters folded in where there are any."""
        if layer.expert_pairs:
            return self.folded(layer.experts[which], layer.expert_pairs[which])
        return self.weight(layer.experts[which])

    def grouped(self, x: Value, stored: Value, rows: int, wide: int) -> Value:
        """One product for all experts."""
        inputs, count = x.count // rows, stored.count
        learns = stored.node is not None or self.tape.again
        saved = self.tape.keep(x.buffer if learns else None, stored.buffer)
        out = Value(self.new(rows * wide), rows * wide, self.width)

        def back(g: Buffer, saved: Any) -> Gradients:
            gw = self.new(count) if learns else None
            return self.new(rows * inputs), gw

        return self.tape.out(out, [x, stored], saved, back)

    def folded(self, weight: Weight, pair: tuple[Weight, Weight]) -> Value:
        """W + B A for every expert, a whole copy (peft's ParamWrapper)."""
        first, second = pair
        narrow = [self.new(part.count) for part in pair if part.width != self.width]
        saved = self.tape.keep(narrow)
        out = Value(self.new(weight.count), weight.count, self.width)
        del narrow

        def back(g: Buffer, saved: Any) -> Gradients:
            products = [self.new(part.count) for part in pair]
            scaled = [self.new(part.count) for part in pair]
            del g, products, scaled
            return self.new(first.count, first.width), self.new(second.count, second.width)

        return self.tape.out(out, [first, second], saved, back)

    def combine(self, outer: Value, routed: Value, rows: int, hidden: int, tokens: int) -> Value:
        """Weigh each expert's rows, bring them back in order, add them up for each token."""
        n, width = rows * hidden, self.width
        # Mixtral's router scores stay fp32, and so does what they weigh.
        fine = 4 if self.arch.model_type == "mixtral" else width
        weighed = self.new(n, fine)
        order = self.new(rows, 8)
        saved = self.tape.keep(outer.buffer, routed.buffer, order)
        del order
        back_in_order = self.new(n, fine)
        del weighed
        out = Value(self.new(tokens * hidden, width), tokens * hidden, width)
        del back_in_order

        def back(g: Buffer, saved: Any) -> Gradients:
            spread = self.new(n, fine)
            zeros = self.new(n, fine)
            placed = self.new(n, fine)
            del zeros, spread
            filled = self.new(n, fine)
            del placed
            g_outer, product = self.new(n, fine), self.new(n, fine)
            g_routed = self.new(rows, fine)
            if fine != width:
                g_outer = self.new(n, width)
            del product, filled
            return g_outer, g_routed

        return self.tape.out(out, [outer, routed], saved, back)
