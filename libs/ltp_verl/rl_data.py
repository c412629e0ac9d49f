"""Fewer objects between verl's processes in RL; loaded by `VERL_USE_EXTERNAL_MODULES=ltp_verl.rl_data`.

With 1,024 short responses on an H200, three quarters of a step was the host's: a trainer was handed every prompt, reward and
note of each response as an object of its own, three times a step, and moved them to the device with each micro batch; and
responses were cut out of a batch one by one (docs/evidence/grpo-h200.md). The numbers are the same.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from verl.utils import tensordict_utils, transferqueue_utils
from verl.workers.utils import padding

# What is no tensor and still read by verl's engines.
_READ = frozenset(["multi_modal_inputs", "uid"])
# What no forward pass reads: the loss does, which scoring has not.
_OF_THE_LOSS = frozenset([
    "prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "token_level_scores",
    "token_level_rewards", "old_log_probs", "ref_log_prob", "log_probs", "entropy", "advantages", "returns", "values",
])  # fmt: skip
_UPDATE = frozenset(["mini_batch_size", "num_mini_batch"])
_all_of = transferqueue_utils.async_kv_batch_meta2batch_meta
_one_by_one = padding.no_padding_2_padding


async def tensors_of(meta: Any) -> Any:
    """As verl's own, without the fields that a training worker never reads."""
    batch: Any = await _all_of(meta)
    schema: dict[str, Any] = batch.field_schema
    noted: dict[str, Any] = meta.extra_info
    # An update names its mini-batches; the note of a scoring before it may still be there.
    scores = tensordict_utils.unwrap_non_tensor_data(noted.get("compute_loss")) is False and not _UPDATE & noted.keys()
    unread: frozenset[str] = _OF_THE_LOSS if scores else frozenset()
    return type(batch)(
        global_indexes=batch.global_indexes,
        partition_ids=batch.partition_ids,
        field_schema={
            name: field
            for name, field in schema.items()
            if name in _READ or not (field["is_non_tensor"] or name in unread)
        },
        production_status=batch.production_status,
        extra_info=batch.extra_info,
        custom_meta=batch.custom_meta,
        _custom_backend_meta=batch._custom_backend_meta,
    )


def padded_responses(tensor: torch.Tensor, data: Any) -> torch.Tensor:
    """The responses of packed values (tokens, ...), each value that of the token before, as (sequences, longest, ...)."""
    prompts, responses = data["prompts"], data["responses"]
    if not prompts.is_nested:
        return _one_by_one(tensor, data)
    values: torch.Tensor = tensor.values() if tensor.is_nested else tensor
    lengths = responses.offsets().diff()
    ends = (prompts.offsets().diff() + lengths).cumsum(0)
    noted: Any = tensordict_utils.get_non_tensor_data(data=data, key="max_response_len", default=-1)
    longest = int(noted) if noted >= 0 else int(lengths.max())
    steps = torch.arange(longest, device=lengths.device)
    inside = steps < lengths.unsqueeze(1)
    places = torch.where(inside, (ends - lengths - 1).unsqueeze(1) + steps, 0).to(values.device)
    inside = inside.to(values.device).view(*inside.shape, *(1 for _ in values.shape[1:]))
    return torch.where(inside, values[places], 0)


def responses_of(tensor: Any, response_mask: Any) -> torch.Tensor:
    """The responses of nested values (sequences, tokens), each value that of the token before, nested."""
    values, ends, starts = tensor.values(), tensor.offsets()[1:], response_mask.offsets()
    lengths = starts.diff()
    first = torch.repeat_interleave(ends - lengths - 1 - starts[:-1], lengths)
    places = first + torch.arange(len(first), device=first.device)
    # Without the bounds, padding would make every row as long as all together.
    bounds: dict[str, Any] = {"min_seqlen": int(lengths.min()), "max_seqlen": int(lengths.max())}
    return torch.nested.nested_tensor_from_jagged(values[places], offsets=starts, **bounds)


transferqueue_utils.async_kv_batch_meta2batch_meta = tensors_of
padding.no_padding_2_padding = padded_responses
padding.response_from_nested = responses_of
# What is imported by now stays for good: no collection has to look at it.
gc.freeze()
# A batch is some hundred thousand objects, each of which verl lets go of by itself: Python's defaults looked through all there
# are in every step, for 0.3 s. Cycles still go, after two million.
gc.set_threshold(10_000, 20, 10)
