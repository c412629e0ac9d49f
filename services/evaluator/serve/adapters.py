"""LoRA adapters on a model that is loaded once: which are there, and which one the next forward passes go through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Adapters:
    """The adapters of one model, by the names they are asked by. Not for use from two threads at once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._slots = dict[str, str]()

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def names(self) -> list[str]:
        """All names, oldest first."""
        return list(self._slots)

    def load(self, name: str, path: Path) -> None:
        """Read an adapter, safetensors only. Raises ValueError, saying why it does not fit; then it is not there."""
        if name in self._slots:
            return
        if not (path / "adapter_model.safetensors").is_file():
            raise ValueError(f"{path} has no adapter_model.safetensors")
        # A name of ours: peft makes it part of module names, which take no dots.
        slot = f"adapter{len(self._slots)}"
        try:
            self._model.load_adapter(str(path), adapter_name=slot)
        except Exception as error:  # whatever an adapter of another model does to peft, the model must stay as it was
            if slot in getattr(self._model, "peft_config", {}):
                self._model.delete_adapter(slot)
            raise ValueError(f"{type(error).__name__}: {error}") from error
        self._slots[name] = slot
        self._model.eval()

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Forward passes within go through this adapter, or through the model as it is."""
        if not self._slots:
            yield
            return
        if name is None:
            self._model.disable_adapters()
        else:
            self._model.enable_adapters()
            self._model.set_adapter(self._slots[name])
        yield
