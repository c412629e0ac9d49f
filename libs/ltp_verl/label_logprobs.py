"""Log-probabilities of labels a block of tokens at a time; loaded by `VERL_USE_EXTERNAL_MODULES=ltp_verl.label_logprobs`.

Without flash-attn, verl 0.9.1 computes them one token at a time, a handful of kernels each: on an H200 that took 10 of the
10.4 seconds of a step of 65,536 tokens (docs/evidence/planner-h200.md). Maths and memory are the same in blocks.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from verl.utils import torch_functional

# Tokens at a time: enough to fill a device, little against what the logits themselves take.
_BLOCK = 1024


def label_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of logits (..., vocabulary) and labels (...), the log-probability of each label, in the logits' precision."""
    flat = logits.reshape(-1, logits.shape[-1])
    blocks = zip(flat.split(_BLOCK), labels.reshape(-1).split(_BLOCK), strict=True)
    return torch.cat([_of_block(*block) for block in blocks]).view(labels.shape)


def _of_block(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    index = labels.unsqueeze(-1)
    if logits.dtype in (torch.float32, torch.float64):
        return logits.gather(-1, index).squeeze(-1) - torch.logsumexp(logits, dim=-1)
    # In bfloat16 the difference of two large numbers would lose what matters.
    return functional.log_softmax(logits, dim=-1).gather(-1, index).squeeze(-1)


# verl has no registry for it; `logprobs_from_logits` looks it up here at each call.
torch_functional.logprobs_from_logits_v2 = label_logprobs
