"""FSDP's buffers: when weights are gathered and given back, and what reducing their gradients takes.

Source: torch/distributed/fsdp/_fully_shard (FSDP2, torch 2.11) and torch/distributed/fsdp (FSDP1). Each layer is a group;
so is an untied embedding; the rest is the root's. Gathering and reducing run on streams of their own, whose memory the
allocator keeps apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ltp.core.replay.operations import Gradients
from ltp.core.replay.tape import Buffer, Tape, Value, Weight


class Links:
    """What the groups of a model share: the streams' last buffers, and the order of forward for prefetching."""

    def __init__(self, tape: Tape, shards: int, gathered: int, reduced: int = 4) -> None:
        self.tape, self.shards = tape, shards
        # Bytes of a gathered number, and of one being reduced.
        self.gathered, self.reduced = gathered, reduced
        self.last_gathered: Buffer | None = None
        self.last_reduced: Buffer | None = None
        self.order: list[Group] = []

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Allocate on another stream for a while."""
        memory = self.tape.memory
        outer, memory.stream = memory.stream, name
        try:
            yield
        finally:
            memory.stream = outer


class Group:
    """Weights that are gathered and reduced together (FSDP2)."""

    def __init__(self, links: Links, weights: Sequence[Weight], *, reshards: bool = True) -> None:
        self.links, self.weights, self.reshards = links, list(weights), reshards
        self.count = sum(weight.count for weight in weights)
        self.gathering: Buffer | None = None
        self.pending = self.whole = False
        self.values: list[Buffer] = []
        self.gradient: Buffer | None = None

    def unshard(self) -> None:
        """Begin to gather: a bf16 copy of the shard, and the gathered whole."""
        if self.whole or self.pending:
            return
        self.pending = True
        links = self.links
        if links.shards == 1:
            return
        with links.stream("gather"):
            flat = links.tape.new(self.count * links.gathered // links.shards)
            self.gathering = links.tape.new(self.count * links.gathered)
            del flat

    def wait(self, *, forward: bool) -> None:
        """Copy the gathered weights to where the layers read them."""
        if not self.pending:
            return
        self.pending, self.whole = False, True
        links = self.links
        if forward:
            links.last_gathered = None
        self.values = [links.tape.new(weight.count * links.gathered) for weight in self.weights]
        if forward:
            links.last_gathered = self.gathering
        self.gathering = None

    def reshard(self) -> None:
        """Give the gathered weights back."""
        self.values = []
        self.whole = False

    def after_forward(self) -> None:
        """Reshard, and note the order for backward's prefetching."""
        self.links.order.append(self)
        if self.reshards:
            self.reshard()

    def before_backward(self) -> None:
        """Have the weights, and begin to gather the group that comes next."""
        self.unshard()
        self.wait(forward=False)
        order = self.links.order
        at = order.index(self) if self in order else 0
        if at:
            order[at - 1].unshard()

    def after_backward(self) -> None:
        """Reduce the gradients: one fp32 copy of the whole, one of the shard, which stays as the gradient."""
        links = self.links
        if not (self.whole or self.pending):
            return
        self.reshard()
        links.last_reduced = None
        trained = [weight for weight in self.weights if weight.grad is not None]
        if not trained:
            return
        count = sum(weight.count for weight in trained)
        whole = links.tape.new(count * links.reduced)
        for weight in trained:
            weight.grad = None
        with links.stream("reduce"):
            shard = links.tape.new(count * links.reduced // links.shards)
            if self.gradient is None:
                self.gradient = shard
        links.last_reduced = whole

    def settle(self) -> None:
        """Drop a gathering that was begun for a group which backward did not need."""
        self.pending, self.gathering = False, None

    def hook(self, x: Value, *, after: bool) -> Value:
        """A point in the graph at which backward leaves (`after`) or enters the group."""
        act = self.after_backward if after else self.before_backward

        def back(g: Buffer, saved: Any) -> Gradients:
            act()
            return (g,)

        return self.links.tape.out(Value(x.buffer, x.count, x.width), [x], None, back)


class FlatGroup(Group):
    """FSDP1: one flat parameter a unit; a device alone keeps a bf16 copy of the flat weights and no shards."""

    def unshard(self) -> None:
        """Begin to gather on a stream of its own; the flat whole is used in place."""
        if self.whole or self.pending:
            return
        self.pending = True
        links = self.links
        with links.stream("gather"):
            flat = links.tape.new(self.count * links.gathered // links.shards)
            self.gathering = links.tape.new(self.count * links.gathered) if links.shards > 1 else flat
            del flat

    def wait(self, *, forward: bool) -> None:
        """The stream's work is waited for; nothing is copied."""
        if self.pending:
            self.pending, self.whole = False, True
            assert self.gathering is not None
            self.values, self.gathering = [self.gathering], None

    def reshard(self) -> None:
        """Given back when the work recorded on its stream is done: while the next group runs."""
        self.links.last_gathered = self.values[0] if self.values else None
        super().reshard()

    def after_backward(self) -> None:
        """The gradients of the unit are joined into a flat one, and that is reduced in fp32."""
        links = self.links
        trained = [weight for weight in self.weights if weight.grad is not None]
        count = sum(weight.count for weight in trained)
        if not (self.whole or self.pending) or not trained:
            self.reshard()
            return
        joined = links.tape.new(count * links.gathered)
        for weight in trained:
            weight.grad = None
        self.reshard()
        links.last_reduced = None
        with links.stream("reduce"):
            whole = links.tape.new(count * links.reduced)
            shard = links.tape.new(count * links.reduced // links.shards) if links.shards > 1 else whole
            if self.gradient is None:
                self.gradient = shard
        links.last_reduced = joined
        del whole
