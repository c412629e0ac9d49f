"""Where every tensor of a result will lie, fixed before the first is computed: files, offsets and headers.

Format: https://github.com/huggingface/safetensors#format. Fixed offsets let any thread write any tensor at any time, and a
restart write again what it is not sure of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ltp.tensors.model_files import INDEX, SINGLE, WIDTH

MAX_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Target:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * WIDTH[self.dtype]


@dataclass(frozen=True)
class Shard:
    """A file of the result: its header, and where each of its tensors begins."""

    file: str
    header: bytes
    offsets: dict[str, int]
    size: int


def laid_out(targets: Sequence[Target], max_file_bytes: int = MAX_FILE_BYTES) -> list[Shard]:
    """The result's files, filled in the order given."""
    groups: list[list[Target]] = [[]]
    filled = 0
    for target in targets:
        if groups[-1] and filled + target.size > max_file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(target)
        filled += target.size
    if len(groups) == 1:
        return [shard_of(SINGLE, groups[0])]
    return [shard_of(f"model-{n:05}-of-{len(groups):05}.safetensors", group) for n, group in enumerate(groups, start=1)]


def shard_of(file: str, targets: Sequence[Target]) -> Shard:
    """One file with these tensors, in this order but for wider types first."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    offset = 0
    # Wider types first, so that every tensor starts at a multiple of its width.
    for target in sorted(targets, key=lambda t: -WIDTH[t.dtype]):
        span = [offset, offset + target.size]
        fields[target.name] = {"dtype": target.dtype, "shape": list(target.shape), "data_offsets": span}
        starts[target.name], offset = offset, span[1]
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Shard(file, header, {name: len(header) + start for name, start in starts.items()}, len(header) + offset)


def index_of(shards: Sequence[Shard], targets: Sequence[Target]) -> dict[str, str]:
    """The index file that several shards need, by its name; empty for one shard."""
    if len(shards) == 1:
        return {}
    weight_map = {name: shard.file for shard in shards for name in shard.offsets}
    total = sum(target.size for target in targets)
    return {INDEX: json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"}
