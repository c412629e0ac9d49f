"""Opens a checkpoint that verl 0.9.1's FSDP engine wrote, and gives its weights whole, one at a time."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any, cast

import torch

# This import also registers DTensor and its parts as safe globals of torch.load(weights_only=True).
from torch.distributed.tensor import DTensor

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.shards import gather, same_bits

# Reading a mesh without its process groups is what we are here for; torch warns about it for every file.
logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)


def export_failed(message: str, hint: str = "") -> LtpError:
    """The error of a checkpoint that cannot become a model."""
    return LtpError(ErrorCode.EXPORT_FAILED, message, hint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint."""
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = "Give the directory that holds the shards: global_step_N for SFT, global_step_N/actor for RL."
        raise export_failed(f"{path} does not exist.", hint) from None
    except (ValueError, RecursionError) as error:
        raise export_failed(f"{path} is broken JSON: {error}.") from error
    if not isinstance(value, dict):
        raise export_failed(f"{path} holds no JSON object.")
    return cast("dict[str, Any]", value)


class ShardedCheckpoint:
    """The weights of `model_world_size_W_rank_R.pt`, R from 0 to W-1, mapped so that memory holds one at a time."""

    def __init__(self, directory: Path) -> None:
        """Raises LtpError(EXPORT_FAILED): a shard is missing or unreadable, or shards disagree."""
        world_size: object = read_json(directory / "fsdp_config.json").get("world_size")
        if not isinstance(world_size, int) or world_size < 1:
            raise export_failed(f"{directory / 'fsdp_config.json'} gives the world size {world_size!r}.")
        paths = [directory / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(world_size)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise export_failed(f"{directory} lacks {len(missing)} of {world_size} shards: {missing[0]}.")
        self._ranks = [_load(path) for path in paths]
        self.names = list(self._ranks[0])
        for path, shard in zip(paths, self._ranks, strict=True):
            if shard.keys() != self._ranks[0].keys():
                raise export_failed(f"{path.name} holds other weights than {paths[0].name}.")

    def dtype(self, name: str) -> torch.dtype:
        """The type a weight was saved with."""
        return self._ranks[0][name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole weight."""
        return tuple(self._ranks[0][name].shape)

    def weight(self, name: str) -> torch.Tensor:
        """The whole weight, gathered from its shards."""
        pieces = [shard[name] for shard in self._ranks]
        try:
            whole = whole_of(pieces)
        except (ValueError, RuntimeError) as error:
            raise export_failed(f"The shards of {name} do not fit together: {error}.") from error
        if tuple(whole.shape) != self.shape(name):
            raise export_failed(f"The shards of {name} give {tuple(whole.shape)}, not {self.shape(name)}.")
        return whole


def whole_of(pieces: list[torch.Tensor]) -> torch.Tensor:
    """A tensor from the pieces of all ranks. Raises ValueError where they do not fit together."""
    first = pieces[0]
    if not isinstance(first, DTensor):
        # FSDP leaves as it is what it does not shard: every rank has a copy.
        if not all(same_bits(first, piece) for piece in pieces[1:]):
            raise ValueError("replicas differ")
        return first
    sharded = cast("list[DTensor]", pieces)
    if any(piece.placements != first.placements for piece in sharded):
        raise ValueError("placements differ")
    mesh = first.device_mesh.mesh
    # `_local_tensor`, as verl's own merger reads it: `to_local` would ask for the process group.
    local = [sharded[rank]._local_tensor for rank in mesh.flatten().tolist()]  # pyright: ignore[reportPrivateUsage]
    return gather(local, first.placements, tuple(mesh.shape))


def _load(path: Path) -> dict[str, torch.Tensor]:
    """Weights only: the file comes from a host that ran a user's recipe, and a full pickle may run code."""
    try:
        loaded: object = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise export_failed(f"{path.name} cannot be read: {reason}") from error
    if not isinstance(loaded, dict) or not loaded:
        raise export_failed(f"{path.name} holds no weights.")
    entries = cast("dict[str, object]", loaded)
    other = next((name for name, value in entries.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise export_failed(f"{path.name} holds {other}, which is no tensor.")
    return cast("dict[str, torch.Tensor]", entries)
