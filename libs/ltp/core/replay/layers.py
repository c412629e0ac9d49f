"""A decoder layer as transformers' modules are written: norms, attention, feed-forward block or experts, residuals."""

from __future__ import annotations

from ltp.core.replay.attention import Attention
from ltp.core.replay.experts import Experts
from ltp.core.replay.tape import Value, Weight
from ltp.core.replay.weights import Layer


class Decoder(Attention, Experts):
    """Runs a layer of the architecture on a batch."""

    def layer(self, x: Value, layer: Layer) -> Value:
        """Norm, attention, residual, norm, feed-forward, residual; some norm what comes out of a block, before or instead."""
        arch, norms = self.arch, iter(layer.norms)
        sandwich = arch.norms == 4

        def normed(value: Value) -> Value:
            weight: Weight | None = next(norms) if arch.norm_kind != "plain" else None
            return self.normed(value, weight, self.step.tokens)

        h = x if arch.post_norms else normed(x)
        if arch.parallel:
            mixed = self.attend(h, layer)
            return self.add(self.add(mixed, self.feed_forward(h, layer)), x)
        h = self.attend(h, layer)
        if sandwich or arch.post_norms:
            h = normed(h)
        x = self.add(x, self.scaled(h) if arch.scales else h)
        del h
        h = x if arch.post_norms else normed(x)
        h = self.mixture(h, layer) if layer.experts else self.feed_forward(h, layer)
        if sandwich or arch.post_norms:
            h = normed(h)
        return self.add(x, self.scaled(h) if arch.scales else h)
