"""The configs of well-known public models, for rows and recipes that name a model and bring no config.json.

Figures are those of each model's published config.json on its maker's page. Names are compared in lower case, without the
maker's prefix and without `-instruct`, `-base`, `-chat` and the like.
"""

from __future__ import annotations

import re
from typing import Any

_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "tie_word_embeddings", "max_position_embeddings",
)  # fmt: skip
_MOE_KEYS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")


def _dense(kind: str, *numbers: int | bool) -> dict[str, Any]:
    return {"model_type": kind, **dict(zip(_KEYS, numbers, strict=True))}


# The layers that have Gemma 3's window follow from its length alone: all but each sixth.
_WINDOWS = {"gemma3-270m": 512, "gemma3-1b": 512, "gemma3-4b": 1024, "gemma3-12b": 1024, "gemma3-27b": 1024}
_NO_WINDOW = ("mistral-7b-v0.3", "mistral-nemo-12b", "mistral-small-24b", "ministral-8b")


def _moe(kind: str, experts: tuple[int, int, int], *numbers: int | bool, **more: Any) -> dict[str, Any]:
    return _dense(kind, *numbers) | dict(zip(_MOE_KEYS, experts, strict=True)) | more


_TABLE: dict[str, dict[str, Any]] = {
    "qwen2-0.5b": _dense("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True, 131072),
    "qwen2-1.5b": _dense("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True, 131072),
    "qwen2-7b": _dense("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False, 131072),
    "qwen2-72b": _dense("qwen2", 8192, 29568, 80, 64, 8, 128, 152064, False, 131072),
    "qwen2.5-0.5b": _dense("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True, 32768),
    "qwen2.5-1.5b": _dense("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True, 131072),
    "qwen2.5-3b": _dense("qwen2", 2048, 11008, 36, 16, 2, 128, 151936, True, 32768),
    "qwen2.5-7b": _dense("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False, 131072),
    "qwen2.5-14b": _dense("qwen2", 5120, 13824, 48, 40, 8, 128, 152064, False, 131072),
    "qwen2.5-32b": _dense("qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False, 131072),
    "qwen2.5-72b": _dense("qwen2", 8192, 29568, 80, 64, 8, 128, 152064, False, 131072),
    "qwq-32b": _dense("qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False, 131072),
    "qwen3-0.6b": _dense("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, 40960),
    "qwen3-1.7b": _dense("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True, 40960),
    "qwen3-4b": _dense("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, 40960),
    "qwen3-8b": _dense("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False, 40960),
    "qwen3-14b": _dense("qwen3", 5120, 17408, 40, 40, 8, 128, 151936, False, 40960),
    "qwen3-32b": _dense("qwen3", 5120, 25600, 64, 64, 8, 128, 151936, False, 40960),
    "llama2-7b": _dense("llama", 4096, 11008, 32, 32, 32, 128, 32000, False, 4096),
    "llama2-13b": _dense("llama", 5120, 13824, 40, 40, 40, 128, 32000, False, 4096),
    "llama2-70b": _dense("llama", 8192, 28672, 80, 64, 8, 128, 32000, False, 4096),
    "llama3-8b": _dense("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 8192),
    "llama3-70b": _dense("llama", 8192, 28672, 80, 64, 8, 128, 128256, False, 8192),
    "llama3.1-8b": _dense("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 131072),
    "llama3.1-70b": _dense("llama", 8192, 28672, 80, 64, 8, 128, 128256, False, 131072),
    "llama3.3-70b": _dense("llama", 8192, 28672, 80, 64, 8, 128, 128256, False, 131072),
    "llama3.1-405b": _dense("llama", 16384, 53248, 126, 128, 8, 128, 128256, False, 131072),
    "llama3.2-1b": _dense("llama", 2048, 8192, 16, 32, 8, 64, 128256, True, 131072),
    "llama3.2-3b": _dense("llama", 3072, 8192, 28, 24, 8, 128, 128256, True, 131072),
    "tinyllama-1.1b": _dense("llama", 2048, 5632, 22, 32, 4, 64, 32000, False, 2048),
    "smollm2-135m": _dense("llama", 576, 1536, 30, 9, 3, 64, 49152, True, 8192),
    "smollm2-360m": _dense("llama", 960, 2560, 32, 15, 5, 64, 49152, True, 8192),
    "smollm2-1.7b": _dense("llama", 2048, 8192, 24, 32, 32, 64, 49152, True, 8192),
    "smollm3-3b": _dense("smollm3", 2048, 11008, 36, 16, 4, 128, 128256, True, 65536),
    "deepseek-r1-distill-llama-8b": _dense("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 131072),
    "deepseek-r1-distill-qwen-1.5b": _dense("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, False, 131072),
    "deepseek-r1-distill-qwen-7b": _dense("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False, 131072),
    "yi-6b": _dense("llama", 4096, 11008, 32, 32, 4, 128, 64000, False, 4096),
    "yi-34b": _dense("llama", 7168, 20480, 60, 56, 8, 128, 64000, False, 4096),
    "mistral-7b": _dense("mistral", 4096, 14336, 32, 32, 8, 128, 32000, False, 32768),
    "mistral-7b-v0.3": _dense("mistral", 4096, 14336, 32, 32, 8, 128, 32768, False, 32768),
    "mistral-nemo-12b": _dense("mistral", 5120, 14336, 40, 32, 8, 128, 131072, False, 131072),
    "mistral-small-24b": _dense("mistral", 5120, 32768, 40, 32, 8, 128, 131072, False, 32768),
    "ministral-8b": _dense("mistral", 4096, 12288, 36, 32, 8, 128, 131072, False, 32768),
    "gemma-2b": _dense("gemma", 2048, 16384, 18, 8, 1, 256, 256000, True, 8192),
    "gemma-7b": _dense("gemma", 3072, 24576, 28, 16, 16, 256, 256000, True, 8192),
    "gemma2-2b": _dense("gemma2", 2304, 9216, 26, 8, 4, 256, 256000, True, 8192),
    "gemma2-9b": _dense("gemma2", 3584, 14336, 42, 16, 8, 256, 256000, True, 8192),
    "gemma2-27b": _dense("gemma2", 4608, 36864, 46, 32, 16, 128, 256000, True, 8192),
    "gemma3-270m": _dense("gemma3_text", 640, 2048, 18, 4, 1, 256, 262144, True, 32768),
    "gemma3-1b": _dense("gemma3_text", 1152, 6912, 26, 4, 1, 256, 262144, True, 32768),
    "gemma3-4b": _dense("gemma3_text", 2560, 10240, 34, 8, 4, 256, 262208, True, 131072),
    "gemma3-12b": _dense("gemma3_text", 3840, 15360, 48, 16, 8, 256, 262208, True, 131072),
    "gemma3-27b": _dense("gemma3_text", 5376, 21504, 62, 32, 16, 128, 262208, True, 131072),
    "phi-1.5": _dense("phi", 2048, 8192, 24, 32, 32, 64, 51200, False, 2048),
    "phi-2": _dense("phi", 2560, 10240, 32, 32, 32, 80, 51200, False, 2048),
    "phi-3-mini": _dense("phi3", 3072, 8192, 32, 32, 32, 96, 32064, False, 4096),
    "phi-3.5-mini": _dense("phi3", 3072, 8192, 32, 32, 32, 96, 32064, False, 131072),
    "phi-3-medium": _dense("phi3", 5120, 17920, 40, 40, 10, 128, 32064, False, 4096),
    "phi-4": _dense("phi3", 5120, 17920, 40, 40, 10, 128, 100352, False, 16384),
    "phi-4-mini": _dense("phi3", 3072, 8192, 32, 24, 8, 128, 200064, True, 131072),
    "starcoder2-3b": _dense("starcoder2", 3072, 12288, 30, 24, 2, 128, 49152, True, 16384),
    "starcoder2-7b": _dense("starcoder2", 4608, 18432, 32, 36, 4, 128, 49152, True, 16384),
    "granite-3.1-2b": _dense("granite", 2048, 8192, 40, 32, 8, 64, 49155, True, 131072),
    "granite-3.1-8b": _dense("granite", 4096, 12800, 40, 32, 8, 128, 49155, True, 131072),
    "olmo-1b": _dense("olmo", 2048, 8192, 16, 16, 16, 128, 50304, True, 2048),
    "olmo-7b": _dense("olmo", 4096, 11008, 32, 32, 32, 128, 50304, False, 2048),
    "olmo2-1b": _dense("olmo2", 2048, 8192, 16, 16, 16, 128, 100352, False, 4096),
    "olmo2-7b": _dense("olmo2", 4096, 11008, 32, 32, 32, 128, 100352, False, 4096),
    "olmo2-13b": _dense("olmo2", 5120, 13824, 40, 40, 40, 128, 100352, False, 4096),
    "olmo2-32b": _dense("olmo2", 5120, 27648, 64, 40, 8, 128, 100352, False, 4096),
    "olmoe-1b-7b": _moe("olmoe", (64, 8, 1024), 2048, 1024, 16, 16, 16, 128, 50304, False, 4096),
    "mixtral-8x7b": _moe("mixtral", (8, 2, 14336), 4096, 14336, 32, 32, 8, 128, 32000, False, 32768),
    "mixtral-8x22b": _moe("mixtral", (8, 2, 16384), 6144, 16384, 56, 48, 8, 128, 32768, False, 65536),
    "qwen1.5-moe-a2.7b": _moe(
        "qwen2_moe", (60, 4, 1408), 2048, 5632, 24, 16, 16, 128, 151936, False, 8192,
        shared_expert_intermediate_size=5632,
    ),
    "qwen2-57b-a14b": _moe(
        "qwen2_moe", (64, 8, 2560), 3584, 18944, 28, 28, 4, 128, 151936, False, 32768,
        shared_expert_intermediate_size=20480,
    ),
    "qwen3-30b-a3b": _moe("qwen3_moe", (128, 8, 768), 2048, 6144, 48, 32, 4, 128, 151936, False, 40960),
    "qwen3-235b-a22b": _moe("qwen3_moe", (128, 8, 1536), 4096, 12288, 94, 64, 4, 128, 151936, False, 40960),
    "deepseek-v2-lite": _moe(
        "deepseek_v2", (64, 6, 1408), 2048, 10944, 27, 16, 16, 64, 102400, False, 163840,
        n_routed_experts=64, n_shared_experts=2, first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
    ),
    "deepseek-v3": _moe(
        "deepseek_v3", (256, 8, 2048), 7168, 18432, 61, 128, 128, 64, 129280, False, 163840,
        n_routed_experts=256, n_shared_experts=1, first_k_dense_replace=3, q_lora_rank=1536, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
    ),
    "moonlight-16b": _moe(
        "deepseek_v3", (64, 6, 1408), 2048, 11264, 27, 16, 16, 64, 163840, False, 8192,
        n_routed_experts=64, n_shared_experts=2, first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
    ),
    # Measured cuts: the true layer shapes of a larger model with fewer layers (or experts).
    "qwen3moe-30b": _moe("qwen3_moe", (128, 8, 768), 2048, 6144, 48, 32, 4, 128, 151936, False, 40960),
    "qwen3moe-16e": _moe("qwen3_moe", (16, 4, 768), 2048, 6144, 12, 32, 4, 128, 151936, False, 40960),
    "mixtral": _moe("mixtral", (8, 2, 14336), 4096, 14336, 32, 32, 8, 128, 32000, False, 32768),
}  # fmt: skip
for _name, _window in {**_WINDOWS, **dict.fromkeys(_NO_WINDOW)}.items():
    _TABLE[_name]["sliding_window"] = _window
for _name, _share in {"phi-2": 0.4, "phi-1.5": 0.5, "phi-4-mini": 0.75}.items():
    _TABLE[_name]["partial_rotary_factor"] = _share

_SUFFIX = re.compile(r"[-_](instruct|base|chat|it|pt|hf|text|\d{4})$")
_LAYERS = re.compile(r"^(?P<name>.+)-(?P<layers>\d+)l$")
_SPELLINGS = (("meta-llama-", "llama"), ("llama-", "llama"), ("gemma-2-", "gemma2-"), ("gemma-3-", "gemma3-"))


def known_config(name: str) -> dict[str, Any] | None:
    """The config of a model by its public name, or None; `NAME-6l` is NAME with 6 layers."""
    found = _plain(name)
    cut = _LAYERS.match(found)
    if cut and cut["name"] in _TABLE:
        return _TABLE[cut["name"]] | {"num_hidden_layers": int(cut["layers"])}
    config = _TABLE.get(found)
    return None if config is None else dict(config)


def known_names() -> tuple[str, ...]:
    """Every name in the table."""
    return tuple(sorted(_TABLE))


def _plain(name: str) -> str:
    found = name.strip().lower().rsplit("/", 1)[-1]
    for spelled, ours in _SPELLINGS:
        if found.startswith(spelled) and found not in _TABLE:
            found = ours + found[len(spelled) :]
    while found not in _TABLE and _SUFFIX.search(found):
        found = _SUFFIX.sub("", found)
    return found
