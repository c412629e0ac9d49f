"""What attention and feed-forward blocks share: projections with their adapters, the architecture's norm, views, factors."""

from __future__ import annotations

from typing import Any

from ltp.core.architecture import Architecture
from ltp.core.memory import Step
from ltp.core.replay.operations import Gradients, Operations
from ltp.core.replay.tape import Buffer, Value, Weight
from ltp.core.replay.weights import Layer, Linear


class Blocks(Operations):
    """Runs parts of a layer of the architecture on a batch."""

    arch: Architecture
    step: Step

    def project(self, x: Value, linear: Linear) -> Value:
        """A projection, adapted where it has a pair."""
        if linear.pair is not None:
            return self.adapted(x, linear.weight, linear.bias, linear.pair, linear.wide)
        return self.linear(x, linear.weight, linear.bias, linear.wide)

    def normed(self, x: Value, weight: Weight | None, rows: int) -> Value:
        """The architecture's norm."""
        if self.arch.norm_kind == "layer":
            return self.layer_norm(x, weight, None, rows)
        if self.arch.norm_kind == "plain":
            return self.cast(self.layer_norm(self.cast(x, 4), None, None, rows), x.width)
        return self.norm(x, weight, rows, upcast_weight=self.arch.norm_kind == "gemma")

    @property
    def residual(self) -> int:
        """Bytes of a number in the residual stream: fp32 under autocast alone."""
        return 4 if self.tape.autocast and not self.step.gathers else self.width

    def parts(self, x: Value, *counts: int) -> tuple[Value, ...]:
        """Views into a value; backward makes one gradient of its whole size for each."""
        count, width = x.count, x.width

        def filled(g: Buffer, saved: Any) -> Gradients:
            return (self.new(count, width),)

        return tuple(self.tape.out(Value(x.buffer, part, width), [x], None, filled) for part in counts)

    def joined(self, count: int, *values: Value) -> Value:
        """Several values copied into one of `count` numbers; backward looks into its gradient."""
        width, counts = values[0].width, [value.count for value in values]

        def split(g: Buffer, saved: Any) -> Gradients:
            # Views of one gradient, but what was spread over the heads is summed.
            return tuple(g if sum(counts) == count else self.new(part, width) for part in counts)

        return self.tape.out(Value(self.new(count, width), count, width), values, None, split)

    def scaled(self, x: Value) -> Value:
        """Times a constant."""
        count, width = x.count, x.width
        return self.tape.out(
            Value(self.new(count, width), count, width), [x], None, lambda g, s: (self.new(count, width),)
        )

    def feed_forward(self, h: Value, layer: Layer) -> Value:
        """down(act(gate(h)) * up(h)), or down(act(up(h))) without a gate."""
        mlp = layer.mlp
        if "gate_up" in mlp:
            both = self.project(h, mlp["gate_up"])
            gate, up = self.parts(both, both.count // 2, both.count // 2)
            del both
            return self.project(self.multiply(up, self.activation(gate)), mlp["down"])
        if "gate" not in mlp:
            formula = self.arch.model_type == "phi"
            return self.project(self.activation(self.project(h, mlp["up"]), formula=formula), mlp["down"])
        gate = self.activation(self.project(h, mlp["gate"]))
        return self.project(self.multiply(gate, self.project(h, mlp["up"])), mlp["down"])
