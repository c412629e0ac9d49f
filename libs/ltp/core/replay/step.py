"""Replays whole optimizer steps: the peaks of every stage, what the allocator holds, and whether the device runs out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltp.core.memory import LossHead, Offload, Precision, Sharding, Step
from ltp.core.model_config import Architecture
from ltp.core.replay.allocator import MIB, Allocator, OutOfMemory
from ltp.core.replay.heads import loss_of, policy_loss
from ltp.core.replay.layers import Decoder
from ltp.core.replay.sharded import FlatGroup, Group, Links
from ltp.core.replay.tape import Buffer, Tape, Value, Weight
from ltp.core.replay.weights import Layer, make_layer

# cuBLAS on Hopper: one workspace for each thread that multiplies, the caller's and autograd's.
_WORKSPACE = 32 * MIB
# The first step makes the optimizer's states, the second runs beside them, the third finds the memory as it stays.
_STEPS = 3


@dataclass(frozen=True)
class Replay:
    """Bytes: what was handed out at most, and held at most; by stage (init, forward, backward, optimizer)."""

    allocated: int
    reserved: int
    stages: dict[str, int] = field(default_factory=dict[str, int])
    # The request that found no room, where the device ran out.
    refused: int | None = None


def replays(arch: Architecture, step: Step) -> bool:
    """Whether the replay covers this architecture and step; else the closed form stands alone."""
    plain = step.tensor_parallel == step.sequence_parallel == step.replicas == 1 and step.offload is Offload.NONE
    return plain and step.tokens_packed is None and step.sharding is Sharding.FULL


def replay(arch: Architecture, step: Step, *, capacity: int | None = None) -> Replay:
    """Run the step's allocations. `capacity` is what the allocator may hold: the device's memory less what is outside."""
    memory = Allocator(capacity, expandable=step.expandable_segments)
    try:
        _Run(arch, step, memory).steps()
    except OutOfMemory as error:
        return Replay(
            max(memory.peak, *memory.stages.values(), 0), memory.peak_reserved, memory.stages, error.requested
        )
    peak = max(size for stage, size in memory.stages.items() if stage != "init")
    return Replay(peak, memory.peak_reserved, memory.stages)


class _Run(Decoder):
    """A model, its optimizer and its steps over an allocator."""

    def __init__(self, arch: Architecture, step: Step, memory: Allocator) -> None:
        super().__init__(Tape(memory, autocast=step.precision is Precision.AMP), step.computed)
        self.arch, self.step, self.memory = arch, step, memory
        width = step.frozen if step.lora_rank else step.stored
        train = not step.lora_rank
        self.embedding = Weight(arch.vocab * arch.hidden, width, trained=train)
        self.layers = [make_layer(arch, step, index) for index in range(arch.layers)]
        self.final = Weight(arch.hidden, width, trained=train) if arch.norm_kind != "plain" else None
        self.head = self.embedding if arch.tied else Weight(arch.vocab * arch.hidden, width, trained=train)
        layered = [weight for layer in self.layers for weight in layer.all()]
        self.weights = [
            self.embedding,
            *layered,
            *([self.final] if self.final else []),
            *([] if arch.tied else [self.head]),
        ]
        self.mask: Buffer | None = None
        self.moments: list[Buffer] = []
        self.groups: list[Group] = []
        self.workspaces: list[Buffer] = []
        if step.gathers:
            self._shard()
        else:
            for weight in self.weights:
                weight.stored = self.tape.new(weight.count * weight.width)
        memory.mark("init")
        memory.empty_cache()
        memory.peak_reserved = memory.reserved

    def _shard(self) -> None:
        step, arch = self.step, self.arch
        links = Links(self.tape, step.shards, step.computed)
        make = FlatGroup if step.flat else Group
        # FSDP1 keeps an untied embedding in the root's unit.
        apart = not arch.tied and not step.flat
        self.root = make(links, [w for w in (self.final, self.head) if w is not None], reshards=step.reshards)
        if not apart and not arch.tied:
            whole = [w for w in (self.embedding, self.final, self.head) if w is not None]
            self.root = make(links, whole, reshards=step.reshards)
        if step.flat:
            self.root.reshards = False
        self.embedded = make(links, [self.embedding], reshards=step.reshards) if apart else None
        self.layer_groups = [make(links, layer.all(), reshards=step.reshards) for layer in self.layers]
        self.groups = [self.root, *([self.embedded] if self.embedded else []), *self.layer_groups]
        self.links = links
        if step.flat:
            for group in self.groups:
                group.weights[0].stored = self.tape.new(
                    sum(weight.count * weight.width for weight in group.weights) // step.shards
                )
        else:
            for weight in self.weights:
                weight.stored = self.tape.new(weight.count * weight.width // step.shards)
        for weight in self.weights:
            weight.width = step.computed

    def steps(self) -> None:
        """Three optimizer steps of one micro batch, or two where gradients accumulate."""
        for _ in range(_STEPS):
            for _ in range(2 if self.step.accumulates else 1):
                self._pass()
            self._update()
            self.memory.mark("optimizer")

    def _pass(self) -> None:
        ids = self.tape.new(8 * self.step.tokens)
        loss, output = self._forward(ids)
        self.tape.casts = {}
        self.memory.mark("forward")
        if len(self.workspaces) == 1:
            self.workspaces.append(self.tape.new(_WORKSPACE))
        self.tape.backward(loss)
        if self.groups:
            for group in self.groups:
                group.after_backward()
                group.settle()
            self.links.last_reduced = self.links.last_gathered = None
            self.links.order.clear()
        self.mask = None
        self.memory.mark("backward")
        del output

    def _forward(self, ids: Buffer) -> tuple[Value, list[Value]]:
        step = self.step
        if self.groups:
            self.root.unshard()
            self.root.wait(forward=True)
        x = self._embed(ids)
        angles = [self.tape.new(step.tokens * self._angle_width * self.residual) for _ in range(2)]
        if any(layer.masked for layer in self.layers):
            # A window's mask is the same for every row; checkpointed layers hold on to it.
            self.mask = self.tape.new(step.masked_pairs if step.padded else step.sequence**2)
        if not self.workspaces:
            self.workspaces.append(self.tape.new(_WORKSPACE))
        for index, layer in enumerate(self.layers):
            x = self._run_layer(x, index, layer)
        hidden = self.normed(x, self.final, step.tokens)
        del x, angles
        if not step.checkpointing:
            self.mask = None
        if step.loss_head in (LossHead.CROSS_ENTROPY, LossHead.CHUNKED):
            loss, output = loss_of(self, hidden, self.head)
            del hidden
            return self._root_done(loss), output if step.keeps_logits else []
        logits = self.linear(hidden, self.head, None, self.arch.vocab)
        del hidden
        if self.arch.scales:
            logits = self.scaled(logits)
        logits = self._root_done(logits)
        return policy_loss(self, logits), [logits]

    def _embed(self, ids: Buffer) -> Value:
        group = self.embedded if self.groups else None
        if group is not None:
            group.unshard()
            group.wait(forward=True)
        x = self.embed(ids, self.embedding, self.step.tokens * self.arch.hidden, self.residual)
        if group is not None:
            group.after_forward()
        return self.scaled(x) if self.arch.scales else x

    @property
    def _angle_width(self) -> int:
        arch = self.arch
        return arch.rope_dim if arch.latent else arch.rotary_dim or arch.head_dim

    def _run_layer(self, x: Value, index: int, layer: Layer) -> Value:
        if not self.step.checkpointing:
            return self._layer(x, index, layer)
        return self.tape.checkpoint(lambda: self._layer(x, index, layer))

    def _layer(self, x: Value, index: int, layer: Layer) -> Value:
        if not self.groups or self.tape.again:
            return self.layer(x, layer)
        group = self.layer_groups[index]
        group.unshard()
        group.wait(forward=True)
        out = self.layer(group.hook(x, after=True), layer)
        group.after_forward()
        return group.hook(out, after=False)

    def _root_done(self, value: Value) -> Value:
        if not self.groups:
            return value
        self.links.last_gathered = None
        self.root.after_forward()
        return self.root.hook(value, after=False)

    def _update(self) -> None:
        """AdamW over lists of tensors: both moments at the first step, and for a while one list of roots."""
        shards = self.step.shards if self.groups else 1
        trained = [w for w in self.weights if w.trained]
        if self.step.flat:
            sizes = [sum(w.count for w in group.weights if w.trained) for group in self.groups]
        else:
            sizes = [weight.count for weight in trained]
        sizes = [size * self.step.trained // shards for size in sizes if size]
        if not self.moments:
            self.moments = [self.tape.new(size) for size in sizes for _ in range(2)]
        if not self.step.fused_optimizer:
            roots = [self.tape.new(size) for size in sizes]
            roots.clear()
        for weight in trained:
            weight.grad = None
        for group in self.groups:
            group.gradient = None
