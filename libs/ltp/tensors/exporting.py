"""The export as a kind of work: a verl checkpoint or a model directory becomes a model directory that others can load.

What was written is read back and compared with the source, value by value, before it counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from ltp.contracts.checkpoint_recipes import ExportRecipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.model_files import ModelFiles, read_json
from ltp.tensors.operation import REPORT, Stopped, Tell, Work
from ltp.tensors.plan import Model
from ltp.tensors.selecting import copy_of

if TYPE_CHECKING:
    from ltp.tensors.fsdp_export import Source

_TAIL = 1 << 16


def export_of(recipe: ExportRecipe, *, threads: int | None = None) -> Work:
    """The work for what lies at `model`. Raises MODEL_NOT_FOUND, MODEL_UNREADABLE, EXPORT_FAILED, OPERATION_REFUSED."""
    path = Path(recipe.model)
    for place in (path, path / "actor"):
        if (place / "fsdp_config.json").is_file():
            return _Checkpoint(recipe, place)
    # verl 0.9's Megatron engine has its model in a folder of its own, before that it lay beside the optimizer's.
    for place in (path, path / "actor", path / "model", path / "actor" / "model"):
        if (place / "dist_ckpt").is_dir():
            return _Checkpoint(recipe, place)
        if place.name == "model" and any((place / "huggingface").glob("*.safetensors")):
            return _Directory(recipe.model_copy(update={"model": str(place / "huggingface")}), threads)
    return _Directory(recipe, threads)


class _Directory:
    """A model directory, in another type or other files."""

    kind, method, is_model = "export", "export", True

    def __init__(self, recipe: ExportRecipe, threads: int | None) -> None:
        dtype = None if recipe.dtype == "keep" else recipe.dtype
        self._merge = copy_of(recipe.model, dtype, threads, recipe.max_file_bytes)
        self.recipe, self.models, self.write_bytes = recipe.settings(), self._merge.models, self._merge.write_bytes

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        return self._merge.summary() | {"kind": self.kind, "method": self.method}

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Weights, settings, and the look back."""
        self._merge.write(directory, digest, stop, tell)
        tell({"stage": "verify"})
        _note(directory, self._verify(directory, stop))

    def _verify(self, directory: Path, stop: Event) -> int:
        """How many tensors were compared. Raises EXPORT_FAILED for one that is not its source, rounded to its type."""
        import numpy as np  # what lies below loads with it, which a preflight need not wait for

        from ltp.tensors.numbers import rounded
        from ltp.tensors.readers import Bench, Files, StepInputs

        files, written = Files(), ModelFiles.open(directory).tensors
        try:
            here, there = Bench(files), Bench(files)
            for step in self._merge.prepared.steps:
                inputs, target = StepInputs(step, self.models, there, 0), written[step.target.name]
                for start, end in inputs.pieces():
                    if stop.is_set():
                        raise Stopped
                    wanted, found = rounded(inputs.values(0, start, end), target.dtype), here.values(0, end - start)
                    here.load(target, start, end, found)
                    if not np.array_equal(wanted, found):
                        raise LtpError(
                            ErrorCode.EXPORT_FAILED, f"{target.name} differs from its source.", "Check the disk."
                        )
        finally:
            files.close()
        return len(self._merge.prepared.steps)


class _Checkpoint:
    """Shards of verl's FSDP or Megatron engine; an interrupted export begins anew."""

    kind, method, is_model = "export", "export", True

    def __init__(self, recipe: ExportRecipe, place: Path) -> None:
        # torch reads the shards, and takes two seconds to load; a model directory needs no torch to be judged.
        from ltp.tensors.fsdp_export import DTYPES as TYPES
        from ltp.tensors.fsdp_export import Source

        self._source: Source = Source(place, TYPES[recipe.dtype])
        self._limit = recipe.max_file_bytes
        shards = tuple(sorted((*place.glob("model_world_size_*.pt"), *place.glob("dist_ckpt/*.distcp"))))
        config = read_json(place / "huggingface" / "config.json")
        # The end of a shard is a zip directory with checksums (of every weight, or of the last chunks): what fingerprints are of.
        files = ModelFiles(place, config, {}, shards, tuple(_tail(path) for path in shards))
        self.recipe, self.models = recipe.settings(), [Model(recipe.model, files)]
        self.write_bytes = sum(entry.size_bytes for entry in self._source.entries)

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        shards = self.models[0].files.files
        return {
            "kind": self.kind,
            "method": self.method,
            "models": [self.models[0].reference],
            "tensors": len(self._source.entries),
            "shards": len(shards),
            "read_bytes": sum(path.stat().st_size for path in shards),
            "write_bytes": self.write_bytes,
            "findings": [],
        }

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Weights, settings, and the look back, which compares bit for bit with the shards."""
        from ltp.tensors.fsdp_export import verify_model, write_model

        tell({"stage": "export"})
        for path in directory.glob("*.safetensors"):
            path.unlink()
        write_model(directory, self._source, self._limit)
        if stop.is_set():
            raise Stopped
        tell({"stage": "verify"})
        _note(directory, len(self._source.entries), weights_sha256=verify_model(directory, self._source))


def _note(directory: Path, tensors: int, **more: Any) -> None:
    report = {"verified": True, "tensors": tensors} | more
    (directory / REPORT).write_text(json.dumps(report, indent=2) + "\n")


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL))
        return stream.read()
