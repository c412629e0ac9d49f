"""Opens the `dist_ckpt` that verl's Megatron engine wrote, and gives the weights of a dense Llama or Qwen whole, one at a time.

Megatron-core's format `torch_dist` is PyTorch's distributed checkpoint: every tensor is global, however many tensor or pipeline
parallel ranks wrote its chunks, so neither megatron-core nor their number is needed. The names and the order of heads are
megatron-core's `GPTModel` (0.16.1 wrote what the tests read), the mapping that of verl's megatron_model_merger.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ltp.core.model_config import Architecture
from ltp.tensors.fsdp_checkpoint import export_failed

DIST = "dist_ckpt"
_EMBEDDING, _HEAD, _LAYERS = "embedding.word_embeddings.weight", "output_layer.weight", "decoder.layers."
_WHOLE = {
    _EMBEDDING: "model.embed_tokens.weight",
    _HEAD: "lm_head.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
}
# A layer's weight: the parts that Hugging Face's model has of it, in order.
_PARTS = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.linear_qkv.layer_norm_weight": ("input_layernorm.weight",),
    "self_attention.linear_qkv.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "self_attention.linear_qkv.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "self_attention.q_layernorm.weight": ("self_attn.q_norm.weight",),
    "self_attention.k_layernorm.weight": ("self_attn.k_norm.weight",),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    "mlp.linear_fc1.layer_norm_weight": ("post_attention_layernorm.weight",),
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
}
# All that the index of such a checkpoint is made of; whatever else it names stays an inert stand-in.
_KNOWN = {
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}  # fmt: skip


class _Inert:
    """Stands for what is not read: the plans of the save, the optimizer's parts."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _Index(pickle.Unpickler):
    """The file is a pickle from a host that ran a user's recipe: nothing but plain values comes to life."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        if global_name in _KNOWN.get(module_name, ()):
            return super().find_class(module_name, global_name)
        return _Inert


@dataclass(frozen=True)
class _Origin:
    """Where a weight comes from: megatron's tensor, the layer in it where it holds all, and which of its `of` parts."""

    tensor: str
    layer: int | None = None
    part: int = 0
    of: int = 1


class MegatronCheckpoint:
    """The model's weights under Hugging Face's names."""

    def __init__(self, directory: Path, arch: Architecture) -> None:
        """Raises EXPORT_FAILED: no such checkpoint, a missing or damaged file, a model that is no dense Llama or Qwen."""
        self._directory, self._arch = directory, arch
        _check_format(directory)
        index = _read_index(directory / ".metadata")
        self._tensors: dict[str, Any] = {
            name: entry
            for name, entry in index.state_dict_metadata.items()
            if name.startswith(("decoder.", "embedding.", "output_layer."))
            and type(entry).__name__ == "TensorStorageMetadata"
        }
        self._places: dict[tuple[str, tuple[int, ...]], Any] = {
            (key.fqn, tuple(key.offset or ())): place for key, place in index.storage_data.items()
        }
        self._origins: dict[str, _Origin] = {}
        for name in self._tensors:
            self._add(name)
        self.names = list(self._origins)

    def dtype(self, name: str) -> torch.dtype:
        """The type a weight was saved with."""
        found: torch.dtype = self._tensors[self._origins[name].tensor].properties.dtype
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole weight."""
        origin = self._origins[name]
        rows, *rest = tuple(self._tensors[origin.tensor].size)[0 if origin.layer is None else 1 :]
        if origin.tensor in (_EMBEDDING, _HEAD):
            # Megatron fills the vocabulary up to a multiple.
            rows = min(rows, self._arch.vocab)
        elif origin.of == len("qkv"):
            groups, queries = self._arch.kv_heads, self._arch.heads // self._arch.kv_heads
            rows = rows // (groups * (queries + 2)) * groups * (queries if origin.part == 0 else 1)
        return (rows // 2 if origin.of == 2 else rows, *rest)

    def weight(self, name: str) -> Tensor:
        """The whole weight, put together from its chunks."""
        origin = self._origins[name]
        value = self._gathered(origin.tensor, origin.layer)
        if origin.tensor in (_EMBEDDING, _HEAD):
            value = value[: self._arch.vocab]
        elif origin.of == len("qkv"):
            value = self._heads(origin, value)
        elif origin.of == 2:
            value = value.chunk(2)[origin.part]
        return value.contiguous()

    def _heads(self, origin: _Origin, value: Tensor) -> Tensor:
        """Each group of heads has its queries, then its key, then its value."""
        groups, queries = self._arch.kv_heads, self._arch.heads // self._arch.kv_heads
        if value.shape[0] % (groups * (queries + 2)):
            raise export_failed(
                f"{origin.tensor} has {value.shape[0]} rows, which {groups} groups of heads do not share."
            )
        rows = value.view(groups, queries + 2, -1, *value.shape[1:])
        chosen = (rows[:, :queries], rows[:, queries], rows[:, queries + 1])[origin.part]
        return chosen.reshape(-1, *value.shape[1:])

    def _add(self, name: str) -> None:
        if name in _WHOLE:
            self._origins[_WHOLE[name]] = _Origin(name)
            return
        layer, _, own = name.removeprefix(_LAYERS).partition(".")
        # All layers in one tensor, or each in its own.
        numbers = [int(layer)] if layer.isdecimal() else range(self._arch.layers)
        own = own if layer.isdecimal() else name.removeprefix(_LAYERS)
        parts = _PARTS.get(own) if name.startswith(_LAYERS) else None
        if parts is None or not self._arch.gated:
            raise export_failed(
                f"{self._directory} holds {name}, which no dense Llama or Qwen has.",
                "Train with use_dist_checkpointing: False or save_contents: [hf_model], and export that.",
            )
        size = tuple(self._tensors[name].size)
        if not layer.isdecimal() and size[0] != self._arch.layers:
            raise export_failed(f"{name} is of {size[0]} layers, and config.json means {self._arch.layers}.")
        for number in numbers:
            for place, part in enumerate(parts):
                origin = _Origin(name, None if layer.isdecimal() else number, place, len(parts))
                self._origins[f"model.layers.{number}.{part}"] = origin

    def _gathered(self, origin: str, layer: int | None) -> Tensor:
        entry = self._tensors[origin]
        size = tuple(entry.size)
        whole = torch.empty(size if layer is None else size[1:], dtype=entry.properties.dtype)
        filled = 0
        for chunk in entry.chunks:
            offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            if layer is not None and not offsets[0] <= layer < offsets[0] + sizes[0]:
                continue
            values = self._read(origin, offsets, sizes, entry.properties.dtype)
            if layer is not None:
                values, offsets, sizes = values[layer - offsets[0]], offsets[1:], sizes[1:]
            whole[tuple(slice(at, at + length) for at, length in zip(offsets, sizes, strict=True))] = values
            filled += values.numel()
        if filled != whole.numel():
            raise export_failed(f"The chunks of {origin} hold {filled} of {whole.numel()} values.", _DAMAGED)
        return whole

    def _read(self, origin: str, offsets: tuple[int, ...], sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        place = self._places.get((origin, offsets))
        if place is None or Path(place.relative_path).name != place.relative_path:
            raise export_failed(f"The index has no place for {origin} at {list(offsets)}.", _DAMAGED)
        path = self._directory / place.relative_path
        try:
            with path.open("rb") as stream:
                stream.seek(place.offset)
                content = stream.read(place.length)
            value: object = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise export_failed(f"{path} does not exist.", _DAMAGED) from None
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise export_failed(f"{path} cannot be read at {place.offset}: {reason}", _DAMAGED) from error
        if not isinstance(value, Tensor) or tuple(value.shape) != sizes or value.dtype != dtype:
            raise export_failed(f"{path} holds something else than {origin} at {place.offset}.", _DAMAGED)
        return value


_DAMAGED = "The checkpoint is incomplete or damaged: copy it again, or export another step."


def _check_format(directory: Path) -> None:
    try:
        found: object = json.loads((directory / "metadata.json").read_bytes()).get("sharded_backend")
    except (OSError, ValueError, AttributeError) as error:
        raise export_failed(f"{directory / 'metadata.json'} cannot be read: {error}.", _DAMAGED) from error
    if found != "torch_dist":
        raise export_failed(f"{directory} is in megatron's format {found!r}; only torch_dist can be read.")


def _read_index(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            index = _Index(stream).load()
        if not isinstance(index.state_dict_metadata, dict) or not isinstance(index.storage_data, dict):
            raise TypeError("it holds no index")
    except FileNotFoundError:
        raise export_failed(f"{path} does not exist: the save did not end.", "Export another step.") from None
    except Exception as error:
        # A damaged pickle can raise anything.
        raise export_failed(f"{path} cannot be read: {type(error).__name__}: {error}", _DAMAGED) from error
    return cast("Any", index)
