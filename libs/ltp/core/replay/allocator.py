"""A simulation of PyTorch's CUDA caching allocator: what a sequence of requests makes it hand out and hold.

Source: c10/cuda/CUDACachingAllocator.cpp (torch 2.11). Requests are rounded up to 512 bytes. Those of up to 1 MiB come from
2 MiB segments, those below 10 MiB from 20 MiB segments, larger ones from a segment of their own, rounded to 2 MiB.
A free block is chosen by best fit within its stream, split unless the rest is too small, and merged with free neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 1024**2
_SMALL, _MEDIUM = MIB, 10 * MIB
_SMALL_SEGMENT, _LARGE_SEGMENT, _GRAIN = 2 * MIB, 20 * MIB, 2 * MIB

Pool = tuple[str, bool]


class OutOfMemory(Exception):  # noqa: N818 -- the field's name for it
    """The device has no room for a request, not even after all unused segments are given back."""

    def __init__(self, requested: int, allocated: int) -> None:
        super().__init__(f"{requested} bytes on top of {allocated}")
        self.requested = requested
        self.allocated = allocated


class _Block:
    __slots__ = ("before", "behind", "free", "pool", "size")

    def __init__(self, size: int, pool: Pool, before: _Block | None, behind: _Block | None) -> None:
        self.size, self.pool, self.before, self.behind = size, pool, before, behind
        self.free = False


class Allocator:
    """Bytes handed out (`allocated`) and held (`reserved`), with the peaks since the last `mark`."""

    def __init__(self, capacity: int | None = None, *, expandable: bool = False) -> None:
        self.capacity = capacity
        self.expandable = expandable
        self.stream = "main"
        self.allocated = self.reserved = 0
        self.peak = self.peak_reserved = 0
        self.stages: dict[str, int] = {}
        self._blocks: dict[int, _Block] = {}
        # Per pool: free blocks as (size, number), smallest first.
        self._free: dict[Pool, list[tuple[int, int]]] = {}
        self._numbers: dict[_Block, int] = {}
        self._next = 0
        self._tails: dict[Pool, _Block] = {}

    def malloc(self, wanted: int) -> int:
        """A block of at least that many bytes: its number. Raises OutOfMemory where `capacity` does not suffice."""
        size = max(512, -(-wanted // 512) * 512)
        pool = (self.stream, size <= _SMALL)
        free = self._free.setdefault(pool, [])
        at = bisect_left(free, (size, -1))
        if at < len(free):
            number = free.pop(at)[1]
            block = self._blocks[number]
        else:
            number, block = self._segment(size, pool)
        block.free = False
        self._split(block, size)
        self.allocated += block.size
        self.peak = max(self.peak, self.allocated)
        return number

    def free(self, number: int) -> None:
        """Give a block back."""
        block = self._blocks[number]
        self.allocated -= block.size
        free = self._free[block.pool]
        before, behind = block.before, block.behind
        if before is not None and before.free:
            self._forget(before, free)
            block.size += before.size
            block.before = before.before
            if block.before is not None:
                block.before.behind = block
        if behind is not None and behind.free:
            self._forget(behind, free)
            block.size += behind.size
            block.behind = behind.behind
            if block.behind is not None:
                block.behind.before = block
            elif self._tails.get(block.pool) is behind:
                self._tails[block.pool] = block
        block.free = True
        insort(free, (block.size, number))

    def mark(self, stage: str) -> None:
        """End a stage: note its peak, and begin the next at what is handed out now."""
        self.stages[stage] = max(self.stages.get(stage, 0), self.peak)
        self.peak = self.allocated

    def empty_cache(self) -> None:
        """Give every segment back of which nothing is in use."""
        for free in self._free.values():
            for size, number in list(free):
                block = self._blocks[number]
                if block.before is None and block.behind is None:
                    self._forget(block, free)
                    self._tails.pop(block.pool, None)
                    self.reserved -= size

    def _segment(self, size: int, pool: Pool) -> tuple[int, _Block]:
        if self.expandable:
            return self._expand(size, pool)
        small = pool[1]
        length = _SMALL_SEGMENT if small else _LARGE_SEGMENT if size < _MEDIUM else -(-size // _GRAIN) * _GRAIN
        self._reserve(length, size)
        return self._new(length, pool, None, None)

    def _expand(self, size: int, pool: Pool) -> tuple[int, _Block]:
        """One segment a pool that grows at its end, by pages of 2 MiB (small) or 20 MiB."""
        page = _SMALL_SEGMENT if pool[1] else _LARGE_SEGMENT
        tail = self._tails.get(pool)
        there = tail.size if tail is not None and tail.free else 0
        length = -(-(size - there) // page) * page
        self._reserve(length, size)
        tail = self._tails.get(pool)
        if tail is not None and tail.free:
            self._free[pool].remove((tail.size, self._numbers[tail]))
            tail.size += length
            return self._numbers[tail], tail
        number, block = self._new(length, pool, tail, None)
        if tail is not None:
            tail.behind = block
        self._tails[pool] = block
        return number, block

    def _reserve(self, length: int, size: int) -> None:
        if self.capacity is not None and self.reserved + length > self.capacity:
            self.empty_cache()
            if self.reserved + length > self.capacity:
                raise OutOfMemory(size, self.allocated)
        self.reserved += length
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def _new(self, size: int, pool: Pool, before: _Block | None, behind: _Block | None) -> tuple[int, _Block]:
        self._next += 1
        block = _Block(size, pool, before, behind)
        self._blocks[self._next] = block
        self._numbers[block] = self._next
        return self._next, block

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size - size
        if not (rest >= 512 if block.pool[1] or self.expandable else rest > _SMALL):
            return
        number, remainder = self._new(rest, block.pool, block, block.behind)
        remainder.free = True
        if block.behind is not None:
            block.behind.before = remainder
        elif self._tails.get(block.pool) is block:
            self._tails[block.pool] = remainder
        block.behind = remainder
        block.size = size
        insort(self._free[block.pool], (rest, number))

    def _forget(self, block: _Block, free: list[tuple[int, int]]) -> None:
        number = self._numbers.pop(block)
        del free[bisect_left(free, (block.size, number))]
        del self._blocks[number]
