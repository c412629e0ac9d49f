"""Reads a Hugging Face `config.json` into the few numbers that memory, time and weight names follow from.

The weight names and shapes are those of transformers' LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM and
MistralForCausalLM (transformers 5.10, `models/*/modeling_*.py`), which differ in biases and query/key norms alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from ltp.core.errors import ErrorCode, LtpError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
_HINT = f"Supported are dense causal language models of type {', '.join(SUPPORTED)} in Hugging Face format."


@dataclass(frozen=True)
class Architecture:
    """A dense decoder-only transformer. Widths are in elements."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    # The output head shares the weights of the embedding.
    tied: bool
    max_positions: int
    qkv_bias: bool
    # Bias of the attention's output projection, and of the three projections of the feed-forward block.
    output_bias: bool
    mlp_bias: bool
    # RMS norm on each head's queries and keys.
    qk_norm: bool
    # Mixture of experts: how many, how many a token uses, their width; a dense block beside them; leading dense layers.
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0
    # rms, gemma (RMS norm whose weight is applied in fp32) or layer; norms a layer, of the residual's width.
    norm_kind: str = "rms"
    norms: int = 2
    gated: bool = True
    fused_qkv: bool = False
    fused_gate: bool = False
    # Attention and feed-forward block read the same norm (Phi).
    parallel: bool = False
    # Multi-head latent attention (DeepSeek): ranks of the compressed queries (0: none) and keys and values.
    latent: bool = False
    query_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    final_softcap: bool = False

    def sparse(self, index: int) -> bool:
        """Whether layer `index` routes tokens to experts."""
        return self.experts > 0 and index >= self.dense_layers

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a parsed `config.json` describes. Defaults are those of transformers' config classes.

    Raises LtpError(MODEL_UNREADABLE): an unsupported model, a missing key, a value that cannot be.
    """
    kind: object = config.get("model_type")
    if kind not in SUPPORTED:
        raise _unreadable(f"config.json has model_type {kind!r}" if kind else "config.json has no model_type")
    _refuse_other_uses(config)
    heads, hidden = _positive(config, "num_attention_heads"), _positive(config, "hidden_size")
    kv_heads = _positive(config, "num_key_value_heads", heads if kind == "llama" else None)
    if heads % kv_heads:
        raise _unreadable(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    bias = kind in ("llama", "qwen3") and _flag(config, "attention_bias")
    return Architecture(
        model_type=cast("str", kind),
        layers=_positive(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_positive(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(config, hidden, heads),
        vocab=_positive(config, "vocab_size"),
        tied=_flag(config, "tie_word_embeddings"),
        max_positions=_positive(config, "max_position_embeddings"),
        qkv_bias=kind == "qwen2" or bias,
        output_bias=bias,
        mlp_bias=kind == "llama" and _flag(config, "mlp_bias"),
        qk_norm=kind == "qwen3",
    )


def weight_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight in the model's safetensors; a tied output head has none of its own."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (arch.vocab, arch.hidden)}
    layer = dict(_layer_shapes(arch))
    for index in range(arch.layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (arch.hidden,)
    if not arch.tied:
        shapes["lm_head.weight"] = (arch.vocab, arch.hidden)
    return shapes


def parameters(arch: Architecture) -> int:
    """Exact number of weights; tied ones count once."""
    embeddings = arch.vocab * arch.hidden * (1 if arch.tied else 2)
    return layer_parameters(arch) * arch.layers + embeddings + arch.hidden


def layer_parameters(arch: Architecture) -> int:
    """Number of weights of one transformer layer."""
    return sum(prod(shape) for _, shape in _layer_shapes(arch))


def linear_shapes(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """(out, in) of the linear projections of one layer, which are what LoRA's target `all-linear` adapts."""
    hidden, query, kv, wide = arch.hidden, arch.query_width, arch.kv_width, arch.intermediate
    attention = ((query, hidden), (kv, hidden), (kv, hidden), (hidden, query))
    return (*attention, (wide, hidden), (wide, hidden), (hidden, wide))


_LINEAR_NAMES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def _layer_shapes(arch: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    biases = (*(arch.qkv_bias,) * 3, arch.output_bias, *(arch.mlp_bias,) * 3)
    for name, shape, bias in zip(_LINEAR_NAMES, linear_shapes(arch), biases, strict=True):
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]
    if arch.qk_norm:
        yield "self_attn.q_norm.weight", (arch.head_dim,)
        yield "self_attn.k_norm.weight", (arch.head_dim,)
    yield "input_layernorm.weight", (arch.hidden,)
    yield "post_attention_layernorm.weight", (arch.hidden,)


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


def _positive(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value: object = config.get(key)
    value = default if value is None else value
    if value is None:
        raise _unreadable(f"config.json lacks {key}")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _unreadable(f"{key} is {value!r}, not a positive whole number")
    return value


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value: object = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise _unreadable(f"{key} is {value!r}, not true or false")
    return bool(value)


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int) -> int:
    # Qwen3 does not derive it: transformers' Qwen3Config sets 128 where config.json is silent.
    if config.get("head_dim") is not None or config.get("model_type") == "qwen3":
        return _positive(config, "head_dim", 128)
    if hidden % heads:
        raise _unreadable(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    return hidden // heads
