"""The operations of a transformer layer as transformers runs them eagerly: what each allocates, saves and frees.

Counts are numbers of elements; a width is bytes per element. The order inside each operation is that of a trace of the real
module (transformers 5.10, torch 2.13; tests hold the two together), with fused attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltp.core.replay.tape import Buffer, Tape, Value, Weight

Gradients = Sequence[Buffer | None]


class Operations:
    """Operations on a tape. `width` is that of the layers' arithmetic: 2, or 4 where everything is fp32."""

    def __init__(self, tape: Tape, width: int) -> None:
        self.tape = tape
        self.width = width

    def new(self, count: int, width: int | None = None) -> Buffer:
        """Memory for so many numbers."""
        return self.tape.new(count * (self.width if width is None else width))

    def cast(self, value: Value, width: int) -> Value:
        """Another precision; the same value where it has it already."""
        if value.width == width:
            return value
        count, before = value.count, value.width
        out = Value(self.new(count, width), count, width)
        return self.tape.out(out, [value], None, lambda g, s: (self.new(count, before),))

    def weight(self, weight: Weight) -> Value:
        """A weight as a product uses it: under autocast a bf16 copy, made once until the context ends."""
        if not self.tape.autocast or weight.width == self.width:
            return Value(None, weight.count, weight.width, weight if weight.trained else None)
        found = self.tape.casts.get(weight)
        if found is None:
            found = Value(self.new(weight.count), weight.count, self.width)
            if weight.trained:
                self.tape.out(found, [weight], None, lambda g, s: (self.new(weight.count, weight.width),))
            if weight.trained:
                self.tape.casts[weight] = found
        return found

    def linear(self, x: Value, weight: Weight, bias: Weight | None, wide: int) -> Value:
        """The product x @ W.T (+ bias), for `wide` outputs a row."""
        if self.tape.autocast:
            x = self.cast(x, self.width)
        inputs = weight.count // wide
        rows = x.count // inputs
        stored = self.weight(weight)
        saved = self.tape.keep(x.buffer if weight.trained else None, stored.buffer)
        out = Value(self.new(rows * wide), rows * wide, self.width)
        biased = bias is not None and bias.trained

        def back(g: Buffer, saved: Any) -> Gradients:
            if not weight.trained:
                return self.new(rows * inputs), None, None
            if bias is not None:
                gx = self.new(rows * inputs)
                gw = self.new(weight.count)
                return gx, gw, self.new(wide) if biased else None
            gw = self.new(weight.count)
            return self.new(rows * inputs), gw, None

        return self.tape.out(out, [x, stored, bias if biased else None], saved, back)

    def adapted(self, x: Value, weight: Weight, bias: Weight | None, pair: tuple[Weight, Weight], wide: int) -> Value:
        """A frozen product plus a low-rank one, as peft's LoRA layer computes it in the adapters' precision."""
        first, second = pair
        rank = second.count // wide
        inputs, rows = first.count // rank, x.count * rank // first.count
        fine = self.width if self.tape.autocast else first.width
        base = self.new(rows * wide)
        wider = x.width != fine
        x_fine = self.new(x.count, fine) if wider else x.buffer
        low = self.new(rows * rank, fine)
        saved = self.tape.keep(x_fine, low)
        high = self.new(rows * wide, fine)
        scaled = self.new(rows * wide, fine)
        del high
        summed = self.new(rows * wide, fine)
        del scaled, base
        out = Value(self.new(rows * wide) if fine != self.width else summed, rows * wide, self.width)
        del summed, x_fine, low

        def back(g: Buffer, saved: Any) -> Gradients:
            _, low = saved
            kept = g
            if fine != self.width:
                g, kept = self.new(rows * wide, fine), self.new(rows * wide)
            scaled = self.new(rows * wide, fine)
            del g
            g_second = self.new(second.count, second.width)
            g_low = self.new(rows * rank, fine)
            del scaled, low
            g_first = self.new(first.count, first.width)
            gx = self.new(rows * inputs, fine)
            del g_low, saved
            if wider:
                gx = self.new(rows * inputs)
            extra = self.new(rows * inputs)
            del kept, extra
            return gx, g_first, g_second

        return self.tape.out(out, [x, first, second], saved, back)

    def norm(self, x: Value, weight: Weight | None, rows: int, *, upcast_weight: bool = False) -> Value:
        """RMS norm in fp32 (Llama's); with `upcast_weight` the weight is applied before the cast back (Gemma's)."""
        n, narrow = x.count, x.width
        trained = weight is not None and weight.trained
        x32 = self.new(n, 4) if narrow < 4 else x.buffer
        squares = self.new(n, 4)
        variance = self.new(rows, 4)
        del squares
        shifted = self.new(rows, 4)
        root = self.new(rows, 4)
        del shifted
        scaled = self.new(n, 4)
        if upcast_weight:
            kept, weighted = scaled, self.new(n, 4)
            out = self.new(n, narrow) if narrow < 4 else weighted
            del weighted
        else:
            kept = self.new(n, narrow) if narrow < 4 else scaled
            out = self.new(n, narrow)
        del scaled, variance
        saved = self.tape.keep(x32, root, kept if trained else None)
        del x32, root, kept
        wide = 4 if upcast_weight else narrow

        def back(g: Buffer, saved: Any) -> Gradients:
            x32, root, kept = saved
            del saved
            if wide > narrow:
                g = self.new(n, 4)
            g_kept = self.new(n, wide)
            g_weight = None
            if trained:
                assert weight is not None
                product = self.new(n, wide)
                g_weight = self.new(weight.count, weight.width)
                del product
            del g, kept
            if wide < 4:
                g_kept = self.new(n, 4)
            gx = self.new(n, 4)
            product = self.new(n, 4)
            sums = self.new(rows, 4)
            del product, g_kept, sums, root
            parts = [self.new(n, 4) for _ in range(4)]
            del parts, x32
            return (self.new(n, narrow) if narrow < 4 else gx), g_weight

        return self.tape.out(Value(out, n, narrow), [x, weight], saved, back)

    def layer_norm(self, x: Value, weight: Weight | None, bias: Weight | None, rows: int) -> Value:
        """Fused layer norm: keeps its input and two statistics a row."""
        out = Value(self.new(x.count, x.width), x.count, x.width)
        saved = self.tape.keep(x.buffer, self.new(rows, 4), self.new(rows, 4))
        count, width = x.count, x.width

        def back(g: Buffer, saved: Any) -> Gradients:
            gx = self.new(count, width)
            if weight is None or not weight.trained:
                return gx, None, None
            g_weight = self.new(weight.count, weight.width)
            return gx, g_weight, self.new(bias.count, bias.width) if bias is not None else None

        return self.tape.out(out, [x, weight, bias], saved, back)

    def rotate(self, x: Value, width: int) -> Value:
        """Rotary embedding; `width` is that of the cosines, 4 in an fp32 residual stream."""
        n, narrow = x.count, x.width
        first = self.new(n, width)
        half = self.new(n // 2, narrow)
        turned = self.new(n, narrow)
        del half
        second = self.new(n, width)
        del turned
        out = Value(self.new(n, width), n, width)
        del first, second

        def back(g: Buffer, saved: Any) -> Gradients:
            product = self.new(n, width)
            half = self.new(n // 2, width)
            padded = [self.new(n, width)]
            del half
            padded.append(self.new(n, width))
            del product
            padded.pop()
            direct = self.new(n, width)
            del g, direct
            return (self.new(n, narrow),)

        return self.tape.out(out, [x], None, back)

    def attention(self, q: Value, k: Value, v: Value, rows: int, *, bias: Buffer | None = None) -> Value:
        """Fused attention: keeps its inputs, its output and one number for each of `rows` (tokens times heads)."""
        if self.tape.autocast:
            q, k, v = (self.cast(x, self.width) for x in (q, k, v))
        out = Value(self.new(v.count * q.count // k.count), v.count * q.count // k.count, self.width)
        log_sums = self.new(rows, 4)
        seeds = [self.tape.new(16), self.tape.new(8)]
        saved = self.tape.keep(q.buffer, k.buffer, v.buffer, out.buffer, log_sums, seeds, bias)
        del log_sums, seeds, bias
        counts = (q.count, k.count, v.count)

        def back(g: Buffer, saved: Any) -> Gradients:
            gq, gk, gv = (self.new(count) for count in counts)
            workspace = self.tape.new(4 * counts[0] + (4 * counts[0] if counts[0] != counts[1] else 0))
            del workspace
            return gq, gk, gv

        return self.tape.out(out, [q, k, v], saved, back)

    def activation(self, x: Value, *, formula: bool = False) -> Value:
        """SiLU or GELU: keeps its input; GELU by its `formula` (transformers' gelu_new) keeps three more."""
        more = [self.new(x.count, x.width) for _ in range(3 if formula else 0)]
        saved = self.tape.keep(x.buffer, more)
        del more
        out = Value(self.new(x.count, x.width), x.count, x.width)
        count, width = x.count, x.width
        return self.tape.out(out, [x], saved, lambda g, s: (self.new(count, width),))

    def multiply(self, a: Value, b: Value) -> Value:
        """Elementwise product: keeps both."""
        saved = self.tape.keep(a.buffer, b.buffer)
        out = Value(self.new(a.count, a.width), a.count, a.width)
        count, width = a.count, a.width
        return self.tape.out(out, [a, b], saved, lambda g, s: (self.new(count, width), self.new(count, width)))

    def add(self, x: Value, y: Value) -> Value:
        """Residual sum in the wider precision."""
        width, narrow, count = max(x.width, y.width), y.width, x.count
        out = Value(self.new(count, width), count, width)

        def back(g: Buffer, saved: Any) -> Gradients:
            return g, g if narrow == width else self.new(count, narrow)

        return self.tape.out(out, [x, y], None, back)

    def embed(self, ids: Buffer, weight: Weight, count: int, width: int) -> Value:
        """Rows of a table."""
        out = Value(self.new(count, width), count, width)
        saved = self.tape.keep(ids)
        if not weight.trained:
            # peft's `enable_input_require_grads`: the graph begins here.
            return self.tape.out(out, [], None, lambda g, s: ())
        return self.tape.out(out, [weight], saved, lambda g, s: (self.new(weight.count, width),))
