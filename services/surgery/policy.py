"""Which part of a checkpoint holds the weights. Pure."""

from __future__ import annotations

from pathlib import Path


def weights_of(checkpoint: Path) -> Path:
    """The folder with the model's shards: `actor/` in checkpoints of RL, the checkpoint itself in those of SFT."""
    actor = checkpoint / "actor"
    return actor if actor.is_dir() else checkpoint
