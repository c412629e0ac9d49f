"""Autograd over sizes: values that occupy memory, and a tape that frees them in the order in which PyTorch does.

A buffer lives as long as something refers to it, as in PyTorch; CPython's reference counts do the work. Backward runs the
nodes in reverse order of their making, each gives up what it saved when it has run, and a gradient is added in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

from ltp.core.replay.allocator import Allocator


class Buffer:
    """Memory of the device, given back when the last reference goes."""

    __slots__ = ("_memory", "_number")

    def __init__(self, memory: Allocator, size: int) -> None:
        self._memory = memory
        self._number = memory.malloc(size)

    def __del__(self) -> None:
        number = getattr(self, "_number", None)
        if number is not None:
            self._memory.free(number)


class Value:
    """A tensor: `count` numbers of `width` bytes. Several may share a buffer, as views do."""

    __slots__ = ("buffer", "count", "node", "width")

    def __init__(self, buffer: Buffer | None, count: int, width: int, node: Node | Weight | None = None) -> None:
        self.buffer, self.count, self.width, self.node = buffer, count, width, node


class Weight:
    """A parameter: what is stored, its gradient, and whether it has one."""

    __slots__ = ("count", "grad", "stored", "trained", "width")

    def __init__(self, count: int, width: int, *, trained: bool = True) -> None:
        self.count, self.width, self.trained = count, width, trained
        self.stored: Buffer | None = None
        self.grad: Buffer | None = None

    def take(self, gradient: Buffer) -> None:
        """The first gradient is kept as it is; later ones are added in place."""
        if self.grad is None:
            self.grad = gradient


Back = Callable[[Buffer, Any], Sequence[Buffer | None]]


class Node:
    """One step of backward: from the gradient of its output to those of its parents."""

    __slots__ = ("back", "frame", "number", "parents", "saved")

    def __init__(self, number: int, parents: tuple[Node | Weight | None, ...], saved: Any, back: Back) -> None:
        self.number, self.parents, self.saved, self.back = number, parents, saved, back
        self.frame: Frame | None = None


class _Stop(Exception):  # noqa: N818 -- a signal, no error
    """Everything that a checkpoint's backward needs has been computed again."""


class Frame:
    """A checkpointed stretch: nothing is kept in forward, and all of it is computed again when backward first asks."""

    def __init__(self, again: Callable[[], object]) -> None:
        self.again: Callable[[], object] | None = again
        self.total = 0
        self.kept: list[Any] | None = None


class Tape:
    """Runs forward code and its backward over an allocator."""

    def __init__(self, memory: Allocator, *, autocast: bool = False) -> None:
        self.memory = memory
        self.autocast = autocast
        # Autocast's bf16 copies of fp32 weights, until its context ends.
        self.casts: dict[Weight, Value] = {}
        self._frame: Frame | None = None
        self._again = False
        self._made = 0

    def new(self, size: int) -> Buffer:
        """Fresh memory."""
        return Buffer(self.memory, size)

    @property
    def again(self) -> bool:
        """Whether a checkpointed stretch is being computed again."""
        return self._again

    def keep(self, *saved: Any) -> Any:
        """Save for backward. Call it before the output exists where an operation saves its inputs alone."""
        frame = self._frame
        if frame is None:
            return saved
        if not self._again:
            frame.total += 1
            return frame.total - 1
        assert frame.kept is not None
        frame.kept.append(saved)
        if len(frame.kept) == frame.total:
            raise _Stop
        return None

    def out(self, value: Value, parents: Sequence[Value | Weight | None], saved: Any, back: Back) -> Value:
        """Make `value` the output of an operation on `parents`."""
        if self._again:
            return value
        self._made += 1
        nodes = tuple(p.node if isinstance(p, Value) else p for p in parents)
        value.node = Node(self._made, nodes, saved, back)
        value.node.frame = self._frame if isinstance(saved, int) else None
        return value

    def checkpoint(self, stretch: Callable[[], Value]) -> Value:
        """Run a stretch without keeping what it saves (torch.utils.checkpoint, non-reentrant)."""
        self._frame = Frame(stretch)
        try:
            return stretch()
        finally:
            self._frame = None

    def backward(self, loss: Value) -> None:
        """From a scalar to every weight's gradient."""
        assert isinstance(loss.node, Node)
        waiting: dict[Node, Buffer] = {loss.node: self.new(4)}
        queue = [(-loss.node.number, loss.node)]
        while queue:
            node = heappop(queue)[1]
            gradients = list(node.back(waiting.pop(node), self._saved(node)))
            node.saved = None
            for position, parent in enumerate(node.parents):
                gradient, gradients[position] = gradients[position], None
                if gradient is not None and isinstance(parent, Weight):
                    parent.take(gradient)
                elif gradient is not None and isinstance(parent, Node) and parent not in waiting:
                    waiting[parent] = gradient
                    heappush(queue, (-parent.number, parent))  # pyright: ignore[reportArgumentType]
                del gradient

    def _saved(self, node: Node) -> Any:
        frame = node.frame
        if frame is None:
            saved, node.saved = node.saved, None
            return saved
        if frame.kept is None:
            self._recompute(frame)
            assert frame.kept is not None
        saved, frame.kept[node.saved] = frame.kept[node.saved], None
        return saved

    def _recompute(self, frame: Frame) -> None:
        outer, self.casts = self.casts, {}
        self._frame, self._again, frame.kept = frame, True, []
        try:
            assert frame.again is not None
            frame.again()
        except _Stop:
            pass
        finally:
            self._frame, self._again, self.casts = None, False, outer
            frame.again = None
