"""What the planner says of plans: each sentence by a code and what is filled in, so that others can say it in other languages."""

from __future__ import annotations

from ltp.contracts.values import Saying

_ENGLISH = {
    # Parts of a candidate's name.
    "device_count": "{count} {model}",
    "processors": "the processors",
    "more": "{count} more",
    "micro_batch": "micro batch {count}",
    "packed_tokens": "{count} packed tokens",
    "with_checkpointing": "with gradient checkpointing",
    "no_checkpointing": "no gradient checkpointing",
    "states_over": "states over {count}",
    "states_over_of": "states over {count} of {devices} devices",
    "sequence_parallel": "sequence parallel {count}",
    "fused_head": "fused loss head",
    "stay_gathered": "weights stay gathered",
    "offload": "{what} offload",
    "rollout_over": "rollout over {count}",
    "rollout_over_devices": "rollout over {count} devices",
    # Why it cannot run.
    "no_bfloat16": "{model} computes no bfloat16, in which verl trains",
    "one_process": "on processors reinforcement learning runs in one process: it takes resources.devices: 1",
    "rule": "rule {number} ({name}): {message}",
    "host_memory": "needs {need} of host memory, {short} more than the host has",
    "generator_memory": "the generator needs {need} beside {held} of training states, {short} too much",
    "deadline": "predicted to take {value} s, {over} more than the {limit} allowed",
    "budget": "predicted to take {value} dollars, {over} more than the {limit} allowed",
    "as_smaller": "needs {short} too much, as its smaller micro batches do",
    "device_memory": "needs up to {need} of the {offer} that the device offers, {short} too much, most for {component} ({size})",
    "replay": "the replay of its allocations finds no room for {size} within what the device offers",
    # Why it fits, and lost.
    "others": "they do not fit, break a rule of verl's, or are behind the chosen one",
    "processor_batch": "fits, but more than {count} sequences at a time make a processor no faster",
    "costs_more": "fits, but costs {share} more ({dollars} dollars)",
    "more_devices": "fits, but takes {count} devices more",
    "less_free": "fits, but leaves {share} of the memory free, not {other}",
    "larger_device": "fits, but {enough} is enough, and {larger} stays free for larger work",
    "slower": "fits, but is predicted {share} slower ({seconds} s a step)",
    "needless_offload": "fits, but moves states to host memory, and there is room enough for them on the device",
    "needless_checkpointing": "fits, but recomputes the activations, and there is memory enough to keep them",
    "needless_pieces": "fits, but computes the loss in pieces, and there is memory enough for the whole",
    "needless_gathering": "fits, but gathers the weights twice, and there is memory enough to keep them",
    "less_busy": "fits, but smaller micro batches keep the device less busy",
    "no_faster": "fits, and is no faster than the chosen one, which leaves more memory free",
    # What would help, and its price.
    "set_field": "{field}: {value}",
    "set_two": "{field}: {value} and {other}: {length}",
    "smaller_model": "a smaller model than this one of {billions} billion parameters",
    "larger_memory": "a device with {need}",
    "price_devices": "{count} devices instead of {before}, and most of their speed",
    "price_shorter": "rows longer than {length} tokens lose their end",
    "price_adapters": "adapters of rank {rank} are trained, the weights stay as they are",
    "price_adapters_shorter": "adapters of rank {rank} are trained, the weights stay as they are, and rows longer than {length} tokens lose their end",
    "price_model": "about {billions} billion parameters train in full on {count} {model}",
    "price_memory": "{short} more than it has",
    "price_device": "{count} {model} would do, at about {dollars} dollars an hour",
}  # fmt: skip
CODES = tuple(_ENGLISH)


def say(code: str, **values: object) -> Saying:
    """A sentence, by its code."""
    return Saying(code=code, values={name: str(value) for name, value in values.items()})


def english(*said: Saying) -> str:
    """The same in words; several are listed."""
    return ", ".join(_ENGLISH[one.code].format(**one.values) for one in said)
