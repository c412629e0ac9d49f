"""What answering with a model takes, from its few numbers: weights, key-value cache, activations, and helpers in RL."""

from __future__ import annotations

from ltp.core.architecture import Architecture, parameters

# Interpreter, torch and transformers without a model: 0.55 GiB resident, measured (torch 2.13, transformers 5.10).
RUNTIME_BYTES = 600 << 20
# One of RL's helper processes: torch, transformers and verl, without a model.
HELPER_BYTES = 700 << 20
# Responses that a helper has to see through a step, at about 10 ms of its processor each, and helpers at most.
_RESPONSES_EACH, _MOST_HELPERS = 32, 8
# Beside the model: what the allocator keeps after a prefill of a full batch.
_SLACK = 1.1


def serving_bytes(arch: Architecture, *, sequences: int, tokens: int, element_bytes: int) -> int:
    """Bytes of a process that answers `sequences` conversations of up to `tokens` tokens together.

    `element_bytes` is the width of weights and cache. The cache holds keys and values of every layer: 2 x layers x
    kv_heads x head_dim a token, and a step that makes it longer holds it twice in one layer.
    """
    weights = parameters(arch) * element_bytes
    # Compressed keys and values are unfolded for every head, as transformers keeps them.
    unfolded = arch.heads * (arch.nope_dim + arch.rope_dim + arch.value_dim)
    wide = unfolded if arch.latent else 2 * arch.kv_width
    layer = wide * sequences * tokens * element_bytes
    block = (arch.hidden * 4 + arch.query_width + 2 * max(arch.intermediate, arch.expert_intermediate)) * 4
    activations = block * sequences * tokens + arch.vocab * sequences * 4
    return RUNTIME_BYTES + int(_SLACK * (weights + layer * (arch.layers + 1) + activations))


def helpers_of(responses: int) -> int:
    """Processes that hand a step's responses to the generator and put them together again; and as many that judge them."""
    return max(2, min(_MOST_HELPERS, responses // _RESPONSES_EACH))
