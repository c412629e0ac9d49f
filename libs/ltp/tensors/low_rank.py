"""Adds a LoRA change to pieces of a weight: W + scale * B @ A (Hu et al. 2021, arXiv:2106.09685). Needs torch's products."""

from __future__ import annotations

import torch

from ltp.tensors.numbers import F32


def add_change(piece: F32, b: F32, a: F32, scale: float) -> None:
    """Add scale * B @ A to rows of a weight, in place: `piece` is flat, `b` holds their rows [rows, rank], `a` is [rank, width]."""
    rows = torch.from_numpy(piece).view(-1, a.shape[1])
    rows.addmm_(torch.from_numpy(b), torch.from_numpy(a), alpha=scale)
