"""The merge as a kind of work: prepared from a recipe, written by the engine."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from ltp.contracts.merge_recipe import MergeRecipe
from ltp.tensors.layout import MAX_FILE_BYTES, index_of
from ltp.tensors.operation import Tell
from ltp.tensors.preflight import prepare

if TYPE_CHECKING:
    from ltp.tensors.engine import Engine, Progress


class Merge:
    """A merge that passed its preflight. Making one raises what makes it impossible; see `ltp.tensors.preflight`."""

    kind, is_model = "merge", True

    def __init__(
        self,
        recipe: MergeRecipe,
        *,
        seed: int = 0,
        threads: int | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
        device: str | None = None,
    ) -> None:
        self.prepared = prepare(recipe, threads=threads or 2, max_file_bytes=max_file_bytes)
        self.recipe, self.method, self.models = recipe.settings(), recipe.merge_method, self.prepared.models
        self.write_bytes = self.prepared.write_bytes
        # torch's name of what computes it; None is the processor without torch where a method needs none.
        self._seed, self._threads, self._device = seed, threads, device

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        found = {"kind": self.kind, **self.prepared.summary()}
        if self._device is not None:
            from ltp.tensors.accelerator import most_bytes

            found["device_bytes"] = most_bytes(self._most(), self._threads)
        return found

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Weights by the engine, then the small files."""

        def told(progress: Progress) -> None:
            tell({"stage": "merge", **asdict(progress)})

        prepared = self.prepared
        self._engine(digest).run(directory, stop, told)
        for path in prepared.files.copied:
            shutil.copyfile(path, directory / path.name)
        written = prepared.files.written | index_of(prepared.shards, [step.target for step in prepared.steps])
        for name, text in written.items():
            (directory / name).write_text(text)

    def _engine(self, digest: str) -> Engine:
        # torch takes two seconds to load, which a preflight must not wait for.
        from ltp.tensors.engine import Engine, threads

        plan = self.prepared
        parts = self.method, plan.models, plan.steps, plan.shards
        if self._device is None:
            return Engine(*parts, seed=self._seed, digest=digest, workers=self._threads)
        from ltp.tensors.accelerator import opened
        from ltp.tensors.device_engine import DeviceEngine

        device = opened(self._device, self._most(), self._threads or threads())
        return DeviceEngine(device, *parts, seed=self._seed, digest=digest)

    def _most(self) -> int:
        """Models that a weight has at most."""
        return max(len(step.origins) for step in self.prepared.steps)
