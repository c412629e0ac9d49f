"""Resumes on another number of devices: verl's shards are bound to the world size they were saved with.

verl opens `model_world_size_W_rank_R.pt` for its own W and R and fails where there is none. Here every rank then reads the
files of all ranks, puts each tensor together and keeps its own part of it: of the weights as of Adam's moments. It holds
one whole tensor at a time. Loaded by verl's own `VERL_USE_EXTERNAL_MODULES`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from ltp.tensors.fsdp_checkpoint import whole_of

_MODEL = re.compile(r"model_world_size_(\d+)_rank_0\.pt")
_load_as_saved = FSDPCheckpointManager.load_checkpoint


class WorldSizeError(RuntimeError):
    """A checkpoint of another world size that cannot be spread anew."""


def saved_world(folder: Path) -> int | None:
    """How many ranks wrote a checkpoint; None where none did."""
    found = [int(m.group(1)) for path in folder.glob("model_world_size_*") if (m := _MODEL.fullmatch(path.name))]
    return max(found, default=None)


def load_checkpoint(self: Any, local_path: str, *arguments: Any, **options: Any) -> Any:
    """As verl's own where the world is the one that saved; else spread anew over this one."""
    world = None if local_path is None else saved_world(Path(local_path))
    if world is None or world == self.world_size:
        return _load_as_saved(self, local_path, *arguments, **options)
    folder = Path(local_path)
    if self.rank == 0:
        logging.getLogger(__name__).warning("spreading a checkpoint of %d ranks over %d", world, self.world_size)
    if self.should_load_model:
        self.model.load_state_dict(_model(_parts(folder, "model", world), self.model.state_dict()))
    if self.should_load_optimizer:
        self.optimizer.load_state_dict(_optimizer(_parts(folder, "optim", world), self.optimizer))
    if self.should_load_extra:
        extra = _part(folder, "extra_state", world, min(self.rank, world - 1))
        self.load_rng_state(extra["rng"])
        if extra.get("lr_scheduler") is not None and self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(extra["lr_scheduler"])
    return None


def _model(parts: list[dict[str, Any]], mine: dict[str, Any]) -> dict[str, Any]:
    """The weights of all ranks as this model wants them."""
    if parts[0].keys() != mine.keys():
        odd = sorted(parts[0].keys() ^ mine.keys())[:3]
        raise WorldSizeError(f"the checkpoint holds other weights than the model: {', '.join(odd)} …")
    return {name: _spread([part[name] for part in parts], like) for name, like in mine.items()}


def _optimizer(parts: list[dict[str, Any]], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Adam's state of all ranks as this optimizer wants it. Parameters are numbered alike, whatever the world."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: _spread([part["state"][number][name] for part in parts], parameters[number])
            if isinstance(value, torch.Tensor) and value.dim() > 0
            else value
            for name, value in entries.items()
        }
        for number, entries in parts[0]["state"].items()
    }
    return {**parts[0], "state": state}


def _spread(pieces: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that lies in pieces, laid out as `like` is."""
    if not isinstance(pieces[0], (DTensor, torch.Tensor)) or type(pieces[0]).__name__ == "ShardedTensor":
        raise WorldSizeError("only checkpoints of FSDP 2 can be resumed on another number of devices")
    whole = whole_of([piece.cpu() if not isinstance(piece, DTensor) else piece for piece in pieces])
    if not isinstance(like, DTensor):
        return whole
    # No rank has to send anything: each has read the whole.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _parts(folder: Path, kind: str, world: int) -> list[dict[str, Any]]:
    return [_part(folder, kind, world, rank) for rank in range(world)]


def _part(folder: Path, kind: str, world: int, rank: int) -> dict[str, Any]:
    # Our own run's files, which verl opens the same way; the scheduler's and the generator's state are no tensors.
    path = folder / f"{kind}_world_size_{world}_rank_{rank}.pt"
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return loaded


def data_state(folder: Path, rank: int, batch_size: int) -> dict[str, Any]:
    """The data loader's state for a rank that draws batches of `batch_size` rows.

    A rank that is new takes the first one's: all have drawn as many batches. How many rows those were depends on the world.
    """
    own = folder / f"data_{rank}.pt"
    path = own if own.exists() else folder / "data_0.pt"
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    _count_rows(state, batch_size)
    return state


def _count_rows(state: dict[str, Any], batch_size: int) -> None:
    for value in list(state.values()):
        if isinstance(value, dict):
            _count_rows(value, batch_size)  # pyright: ignore[reportUnknownArgumentType]
    drawn: Any = state.get("_sampler_iter_state")
    if isinstance(drawn, dict) and "samples_yielded" in drawn:
        drawn["samples_yielded"] = state["_sampler_iter_yielded"] * batch_size


FSDPCheckpointManager.load_checkpoint = load_checkpoint  # pyright: ignore[reportAttributeAccessIssue]
