"""Mixtures of experts as transformers runs them: routers, and grouped products over the rows sorted by expert."""

from __future__ import annotations

from typing import Any

from ltp.core.replay.blocks import Blocks
from ltp.core.replay.operations import Gradients
from ltp.core.replay.tape import Buffer, Value, Weight
from ltp.core.replay.weights import Layer


class Experts(Blocks):
    """Routed experts, and the shared one beside them."""

    def mixture(self, h: Value, layer: Layer) -> Value:
        """Routed experts by grouped products over the rows sorted by expert (transformers' `grouped_mm`)."""
        arch, tokens = self.arch, self.step.tokens
        rows = tokens * arch.experts_per_token
        wide, hidden, width = arch.expert_intermediate, arch.hidden, self.width
        assert layer.router is not None
        narrow = self.cast(h, width)
        # Qwen2-MoE's shared expert comes first.
        shared = self.feed_forward(h, layer) if layer.shared_gate is not None else None
        scores = self._fine_scores(narrow, layer.router) if arch.latent else None
        if scores is None:
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
        if shared is not None and layer.shared_gate is not None:
            gate = self.activation(self.project(narrow, layer.shared_gate))
            return self.add(out, self._gated(gate, shared))
        if layer.mlp:
            out = self.add(out, self.feed_forward(h, layer))
        return out

    def _fine_scores(self, h: Value, router: Weight) -> Value:
        """DeepSeek's router: hidden states and weights in fp32, both kept for backward."""
        h32, count = self.cast(h, 4), router.count
        w32 = self.new(count, 4)
        saved = self.tape.keep(h32.buffer if router.trained else None, w32)
        n = self.step.tokens * self.arch.experts
        out = Value(self.new(n, 4), n, 4)
        del w32

        def back(g: Buffer, saved: Any) -> Gradients:
            gx = self.new(h32_count, 4)
            if not router.trained:
                return gx, None
            wide = self.new(count, 4)
            del wide
            return gx, self.new(count, router.width)

        h32_count = h32.count
        return self.tape.out(out, [h32, router if router.trained else None], saved, back)

    def _gated(self, gate: Value, x: Value) -> Value:
        """One number a token times a row: keeps both."""
        saved = self.tape.keep(gate.buffer, x.buffer)
        count, rows, width = x.count, gate.count, x.width

        def back(g: Buffer, saved: Any) -> Gradients:
            product = self.new(count, width)
            del product
            return self.new(rows, width), self.new(count, width)

        return self.tape.out(Value(self.new(count, width), count, width), [gate, x], saved, back)

    def route(self, scores: Value, rows: int) -> Value:
        """Softmax over the experts in fp32, the best few, and the order by expert."""
        n, width = scores.count, scores.width
        # What comes in fp32 (DeepSeek) stays so.
        wide = self.new(n, 4) if width < 4 else None
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
        # Mixtral's and DeepSeek's router scores stay fp32, and so does what they weigh.
        fine = 4 if self.arch.latent or self.arch.model_type == "mixtral" else width
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
