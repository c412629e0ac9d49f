"""Attention as transformers' modules run it on SDPA: grouped, partly rotated, latent, under a window's or a padding's mask."""

from __future__ import annotations

from typing import Any

from ltp.core.replay.blocks import Blocks
from ltp.core.replay.operations import Gradients
from ltp.core.replay.tape import Buffer, Value, Weight
from ltp.core.replay.weights import Layer


class Attention(Blocks):
    """Projections, norms on queries and keys, rotation, attention, output projection."""

    def attend(self, h: Value, layer: Layer) -> Value:
        """What a layer's attention makes of the normed hidden states."""
        arch, tokens, att = self.arch, self.step.tokens, layer.attention
        if arch.latent:
            return self._attend_latent(h, layer)
        if "qkv" in att:
            fused = self.project(h, att["qkv"])
            counts = (arch.query_width, arch.kv_width, arch.kv_width)
            q, k, v = self.parts(fused, *(tokens * count for count in counts))
            del fused
        else:
            q = self._head_norm(self.project(h, att["q"]), layer.qk_norms[:1], tokens * arch.heads)
            k = self._head_norm(self.project(h, att["k"]), layer.qk_norms[1:], tokens * arch.kv_heads)
            v = self.project(h, att["v"])
        if arch.clips:
            q, k, v = (self._clamped(value) for value in (q, k, v))
        q_turned, k_turned = self._rotated(q), self._rotated(k)
        del q, k
        mixed = self._mixed(q_turned, k_turned, v, layer)
        del v
        return self.project(mixed, att["o"])

    def _attend_latent(self, h: Value, layer: Layer) -> Value:
        """DeepSeek's: queries, keys and values from low ranks; a part of each head's query, and one key part, are rotated."""
        arch, tokens, att = self.arch, self.step.tokens, layer.attention
        heads, norms = arch.heads, list(layer.latent_norms)
        low = self.normed(self.project(h, att["q_a"]), norms.pop(0), tokens) if "q_a" in att else h
        q = self.project(low, att["q"])
        del low
        q_pass, q_rot = self.parts(q, tokens * heads * arch.nope_dim, tokens * heads * arch.rope_dim)
        del q
        packed = self.project(h, att["kv_a"])
        k_low, k_rot = self.parts(packed, tokens * arch.kv_rank, tokens * arch.rope_dim)
        del packed
        kv = self.project(self.normed(k_low, norms.pop(0), tokens), att["kv_b"])
        del k_low
        k_pass, v = self.parts(kv, tokens * heads * arch.nope_dim, tokens * heads * arch.value_dim)
        del kv
        q_rot, k_rot = (self.rotate(value, max(self.width, self.residual)) for value in (q_rot, k_rot))
        whole = tokens * heads * arch.key_width
        q, k = self.joined(whole, q_pass, q_rot), self.joined(whole, k_pass, k_rot)
        del q_pass, q_rot, k_pass, k_rot
        mixed = self._mixed(q, k, v, layer)
        del v
        return self.project(mixed, att["o"])

    def _mixed(self, q: Value, k: Value, v: Value, layer: Layer) -> Value:
        """Fused attention. Under a mask keys and values are spread over the query heads first, and the mask becomes a bias."""
        rows = self.step.tokens * self.arch.heads
        if not layer.masked:
            mixed = self.attention(q, k, v, rows)
            # Flash and cuDNN lay the output out as the queries are, which a joined query is not token by token.
            return self._copied(mixed) if self.arch.rotary_dim else mixed
        # A single head is spread by a view.
        if q.count != k.count and self.arch.kv_heads > 1:
            k, v = self._spread(k, q.count), self._spread(v, q.count)
        return self.attention(q, k, v, rows, bias=self.new(self.step.masked_pairs, self.width))

    def _rotated(self, x: Value) -> Value:
        width, arch = max(self.width, self.residual), self.arch
        if not arch.rotary_dim:
            return self.rotate(x, width)
        count = x.count * arch.rotary_dim // arch.head_dim
        turned, rest = self.parts(x, count, x.count - count)
        return self.joined(x.count, self.rotate(turned, width), rest)

    def _head_norm(self, x: Value, weights: list[Weight], rows: int) -> Value:
        """Norm on each head or on all, where the architecture has it."""
        return self.normed(x, weights[0], self.step.tokens if self.arch.qk_norm_wide else rows) if weights else x

    def _clamped(self, x: Value) -> Value:
        """In place; backward needs what was there before."""
        count, width = x.count, x.width
        saved = self.tape.keep(self.new(count, width))
        return self.tape.out(Value(x.buffer, count, width), [x], saved, lambda g, s: (self.new(count, width),))

    def _spread(self, x: Value, count: int) -> Value:
        """Each key head copied for its query heads."""
        before, width = x.count, x.width
        return self.tape.out(
            Value(self.new(count, width), count, width), [x], None, lambda g, s: (self.new(before, width),)
        )

    def _copied(self, x: Value) -> Value:
        """The same numbers in another order."""
        count, width = x.count, x.width

        def back(g: Buffer, saved: Any) -> Gradients:
            return (g,)

        return self.tape.out(Value(self.new(count, width), count, width), [x], None, back)
