"""Reads a Hugging Face `config.json` into an `Architecture`; what it cannot be certain of it refuses, naming the field.

Defaults are those of transformers' config classes (5.10, `models/*/configuration_*.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from ltp.core.architecture import (
    Architecture,
    active_parameters,
    layer_parameters,
    linear_shapes,
    parameters,
    weight_shapes,
)
from ltp.core.errors import ErrorCode, LtpError

__all__ = [
    "SUPPORTED",
    "Architecture",
    "active_parameters",
    "check_against_index",
    "layer_parameters",
    "linear_shapes",
    "parameters",
    "read_architecture",
    "weight_shapes",
]


@dataclass(frozen=True)
class _Family:
    """What a `model_type` stands for where config.json does not say it. `bias`: None reads `attention_bias`."""

    positions: int
    tied: bool = False
    qkv_bias: bool | None = False
    output_bias: bool | None = False
    mlp_bias: bool | None = False
    qk_norm: bool = False
    norm_kind: str = "rms"
    norms: int = 2
    norm_bias: bool = False
    gated: bool = True
    fused: bool = False
    parallel: bool = False
    latent: bool = False
    # Value of `num_key_value_heads` where config.json is silent: the heads, or refuse.
    kv_heads_default: bool = False
    head_dim: int | None = None
    # Keys of: number of experts, width of one.
    experts: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    softcap: bool = False
    qk_norm_wide: bool = False
    post_norms: bool = False
    scales: bool = False
    # Share of a head that is rotated where config.json is silent, in families that join it with the rest.
    rotary: float | None = None
    # Sliding window where config.json is silent, and whether every layer has it, or all but each `full_every`-th.
    window: int | None = None
    full_every: int = 0


_MOE = (("num_experts", "num_local_experts"), ("moe_intermediate_size",))
_OLMO2 = _Family(
    2048, qkv_bias=None, output_bias=None, qk_norm=True, qk_norm_wide=True, norm_kind="gemma", post_norms=True,
    kv_heads_default=True,
)  # fmt: skip
_FAMILIES = {
    "llama": _Family(2048, qkv_bias=None, output_bias=None, mlp_bias=None, kv_heads_default=True),
    "mistral": _Family(131072, window=4096),
    "qwen2": _Family(32768, qkv_bias=True),
    "qwen3": _Family(32768, qkv_bias=None, output_bias=None, qk_norm=True, head_dim=128),
    "smollm3": _Family(32768, tied=True, qkv_bias=None, output_bias=None, mlp_bias=None),
    "granite": _Family(2048, qkv_bias=None, output_bias=None, mlp_bias=None, kv_heads_default=True, scales=True),
    "olmo": _Family(2048, qkv_bias=None, output_bias=None, norm_kind="plain", kv_heads_default=True),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, positions=2048, window=4096, full_every=4),
    "olmoe": _Family(
        4096, qkv_bias=None, output_bias=None, qk_norm=True, qk_norm_wide=True, kv_heads_default=True,
        experts=(("num_experts",), ("moe_intermediate_size", "intermediate_size")),
    ),
    "gemma": _Family(8192, tied=True, qkv_bias=None, output_bias=None, norm_kind="gemma", head_dim=256),
    "gemma2": _Family(
        8192, tied=True, qkv_bias=None, output_bias=None, norm_kind="gemma", norms=4, head_dim=256, softcap=True,
        window=4096, full_every=2,
    ),
    "gemma3_text": _Family(
        131072, tied=True, qkv_bias=None, output_bias=None, qk_norm=True, norm_kind="gemma", norms=4, head_dim=256,
        window=4096, full_every=6,
    ),
    "phi3": _Family(4096, fused=True, kv_heads_default=True, rotary=1.0),
    "phi": _Family(
        2048, qkv_bias=True, output_bias=True, mlp_bias=True, norm_kind="layer", norms=1, norm_bias=True, gated=False,
        parallel=True, kv_heads_default=True, rotary=0.5,
    ),
    "starcoder2": _Family(
        4096, tied=True, qkv_bias=True, output_bias=True, mlp_bias=True, norm_kind="layer", norm_bias=True, gated=False
    ),
    "mixtral": _Family(131072, experts=(("num_local_experts", "num_experts"), ("intermediate_size",))),
    "qwen2_moe": _Family(32768, qkv_bias=True, experts=_MOE),
    "qwen3_moe": _Family(32768, qkv_bias=None, output_bias=None, qk_norm=True, head_dim=None, experts=_MOE),
    "deepseek_v2": _Family(
        2048, qkv_bias=None, output_bias=None, latent=True, kv_heads_default=True,
        experts=(("n_routed_experts",), ("moe_intermediate_size",)),
    ),
    "deepseek_v3": _Family(
        4096, qkv_bias=None, output_bias=None, latent=True, kv_heads_default=True,
        experts=(("n_routed_experts",), ("moe_intermediate_size",)),
    ),
}  # fmt: skip
SUPPORTED = tuple(sorted(_FAMILIES))
INDEX_NAME = "model.safetensors.index.json"
_HINT = f"Supported are causal language models of type {', '.join(SUPPORTED)} in Hugging Face format."
# No model comes near these; a value beyond them is a slip, and arithmetic on it would only look like an answer.
_LIMITS = {"num_hidden_layers": 10_000, "vocab_size": 100_000_000, "max_position_embeddings": 1 << 40}
_LIMIT = 10_000_000


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a parsed `config.json` describes.

    Raises LtpError(MODEL_UNREADABLE): an unsupported model, a missing key, a value that cannot be.
    """
    config = _text_part(config)
    kind: object = config.get("model_type")
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise _unreadable(f"config.json has model_type {kind!r}" if kind else "config.json has no model_type")
    _refuse_other_uses(config)
    heads, hidden = _positive(config, "num_attention_heads"), _positive(config, "hidden_size")
    kv_heads = _positive(config, "num_key_value_heads", heads if family.kv_heads_default else None)
    if heads % kv_heads:
        raise _unreadable(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    dense: dict[str, Any] = {
        "model_type": kind,
        "layers": _positive(config, "num_hidden_layers"),
        "hidden": hidden,
        "intermediate": _intermediate(config, family),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": _head_dim(config, family, hidden, heads),
        "vocab": _positive(config, "vocab_size"),
        "tied": _flag(config, "tie_word_embeddings", default=family.tied),
        "max_positions": _positive(config, "max_position_embeddings", family.positions),
        "qkv_bias": _bias(config, family.qkv_bias, "attention_bias"),
        "output_bias": _bias(config, family.output_bias, "attention_bias"),
        "mlp_bias": _bias(config, family.mlp_bias, "mlp_bias"),
        "qk_norm": family.qk_norm,
        "norm_kind": family.norm_kind,
        "norms": family.norms,
        "norm_bias": family.norm_bias,
        "gated": family.gated,
        "fused_qkv": family.fused,
        "fused_gate": family.fused,
        "parallel": family.parallel,
        "qk_norm_wide": family.qk_norm_wide,
        "post_norms": family.post_norms,
        "clips": kind in ("olmo", "olmoe") and config.get("clip_qkv") is not None,
        "scales": family.scales,
        "head_bias": kind == "phi",
        "final_softcap": family.softcap and config.get("final_logit_softcapping", 30.0) is not None,
    }
    dense["rotary_dim"] = _rotary(config, family, dense["head_dim"])
    dense |= _windows(config, family, dense["layers"])
    return Architecture(**dense, **_mixture(config, family, kind), **_latent(config, family))


def check_against_index(
    arch: Architecture, vocabulary: int | None, stored_parameters: int | None, *, source: str = INDEX_NAME
) -> None:
    """Hold a config against the model's other files: its tokenizer's size, and the weights that `source` counts.

    Raises LtpError(MODEL_UNREADABLE), naming the field or the file.
    """
    if vocabulary is not None and vocabulary > arch.vocab:
        raise _unreadable(f"vocab_size is {arch.vocab}, and its tokenizer has {vocabulary} tokens")
    expected = parameters(arch)
    # A tied head may be stored a second time.
    if stored_parameters is not None and stored_parameters not in (expected, expected + arch.vocab * arch.hidden):
        what = f"config.json describes {expected:,} parameters, and {source} holds {stored_parameters:,}"
        hint = "Copy the whole model again, with the config.json that belongs to its weights."
        raise LtpError(ErrorCode.MODEL_UNREADABLE, f"The model cannot be used: {what}.", hint)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A multimodal Gemma 3 holds its language model in `text_config`."""
    part: object = config.get("text_config")
    if config.get("model_type") == "gemma3" and isinstance(part, Mapping):
        return {"model_type": "gemma3_text", **cast("Mapping[str, Any]", part)}
    return config


def _mixture(config: Mapping[str, Any], family: _Family, kind: object) -> dict[str, Any]:
    if family.experts is None:
        return {}
    counts, widths = family.experts
    experts = _first(config, counts)
    per_token = _positive(config, "num_experts_per_tok")
    if per_token > experts:
        raise _unreadable(f"num_experts_per_tok {per_token} is more than the {experts} experts")
    width = _first(config, widths)
    shared = 0
    if kind == "qwen2_moe":
        shared = _positive(config, "shared_expert_intermediate_size")
    if family.latent:
        shared = width * _counted(config, "n_shared_experts")
    if _counted(config, "decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"):
        raise _unreadable("decoder_sparse_step or mlp_only_layers mixes dense and routed layers in another order")
    return {
        "experts": experts,
        "experts_per_token": per_token,
        "expert_intermediate": width,
        "shared_intermediate": shared,
        "shared_gate": kind == "qwen2_moe",
        "dense_layers": _counted(config, "first_k_dense_replace"),
    }


def _rotary(config: Mapping[str, Any], family: _Family, head_dim: int) -> int:
    if family.rotary is None:
        return 0
    nested: object = config.get("rope_parameters")
    share: object = config.get("partial_rotary_factor")
    if share is None and isinstance(nested, Mapping):
        share = cast("Mapping[str, Any]", nested).get("partial_rotary_factor")
    share = family.rotary if share is None else share
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
        raise _unreadable(f"partial_rotary_factor is {share!r}, not a share above 0 and up to 1")
    return max(1, int(head_dim * share))


def _windows(config: Mapping[str, Any], family: _Family, layers: int) -> dict[str, Any]:
    """The sliding window and the layers that have it: as `layer_types` says, or as the family's config class fills it in."""
    stated = "sliding_window" in config
    window = _counted(config, "sliding_window") if stated else family.window or 0
    types: object = config.get("layer_types")
    if "use_sliding_window" in config and not _flag(config, "use_sliding_window"):
        window = 0
    elif family.window is None and not isinstance(types, list) and not _flag(config, "use_sliding_window"):
        # Qwen's default is not to use it; phi3, mixtral and starcoder2 use it where it is stated.
        window = window if config.get("model_type") in ("phi3", "mixtral", "starcoder2") else 0
    if not window:
        return {}
    if isinstance(types, list):
        named = cast("list[object]", types)
        return {"window": window, "windowed": tuple(name == "sliding_attention" for name in named)}
    if config.get("use_sliding_window"):
        first = _counted(config, "max_window_layers", 28)
        return {"window": window, "windowed": tuple(index >= first for index in range(layers))}
    every = _counted(config, "sliding_window_pattern", family.full_every)
    return {"window": window, "windowed": tuple(not every or (index + 1) % every != 0 for index in range(layers))}


def _latent(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    if not family.latent:
        return {}
    return {
        "latent": True,
        "query_rank": _counted(config, "q_lora_rank"),
        "kv_rank": _positive(config, "kv_lora_rank"),
        "rope_dim": _positive(config, "qk_rope_head_dim"),
        "nope_dim": _positive(config, "qk_nope_head_dim"),
        "value_dim": _positive(config, "v_head_dim"),
    }


def _intermediate(config: Mapping[str, Any], family: _Family) -> int:
    """A mixture that says it under `moe_intermediate_size` alone has no dense block whose width could be missed."""
    if family.experts is not None and config.get("intermediate_size") is None:
        return _positive(config, "moe_intermediate_size")
    return _positive(config, "intermediate_size")


def _unreadable(what: str) -> LtpError:
    return LtpError(ErrorCode.MODEL_UNREADABLE, f"The model cannot be used: {what}.", _HINT)


def _refuse_other_uses(config: Mapping[str, Any]) -> None:
    """A head for classification has other weights, and quantised weights cannot be trained."""
    if config.get("quantization_config"):
        raise _unreadable("its weights are quantised")
    named: object = config.get("architectures") or []
    names = [str(name) for name in cast("list[object]", named)] if isinstance(named, list) else [str(named)]
    if names and not any(name.endswith("ForCausalLM") for name in names):
        raise _unreadable(f"config.json says {', '.join(names)}, which is no causal language model")


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    for key in keys:
        if config.get(key) is not None:
            return _positive(config, key)
    raise _unreadable(f"config.json lacks {keys[0]}")


def _positive(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value: object = config.get(key)
    value = default if value is None else value
    if value is None:
        raise _unreadable(f"config.json lacks {key}")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _unreadable(f"{key} is {value!r}, not a positive whole number")
    if value > _LIMITS.get(key, _LIMIT):
        raise _unreadable(f"{key} is {value if value < 10**30 else 'beyond 1e30'}, more than any model has")
    return value


def _counted(config: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A number that may be 0 or missing."""
    value: object = config.get(key)
    return default if value is None or (value == 0 and not isinstance(value, bool)) else _positive(config, key)


def _flag(config: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value: object = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise _unreadable(f"{key} is {value!r}, not true or false")
    return default if value is None else bool(value)


def _bias(config: Mapping[str, Any], fixed: bool | None, key: str) -> bool:
    return _flag(config, key) if fixed is None else fixed


def _head_dim(config: Mapping[str, Any], family: _Family, hidden: int, heads: int) -> int:
    """Some families do not derive it: transformers' config classes set it where config.json is silent."""
    if config.get("head_dim") is not None or family.head_dim is not None:
        return _positive(config, "head_dim", family.head_dim)
    if hidden % heads and not family.latent:
        raise _unreadable(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    return max(1, hidden // heads)
