"""Parameter counts are exact: they equal those of the published models and of transformers' own classes."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import layer_parameters, parameters, read_architecture, weight_shapes

SMOLLM2_135M: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
QWEN25_05B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip
VARIANTS = [
    {"model_type": "llama", "tie_word_embeddings": False},
    {"model_type": "llama", "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    {"model_type": "qwen2", "tie_word_embeddings": True},
    {"model_type": "qwen3", "tie_word_embeddings": False},
    {"model_type": "qwen3", "tie_word_embeddings": True, "attention_bias": True},
    {"model_type": "mistral", "tie_word_embeddings": False},
]


@pytest.mark.parametrize(("config", "count"), [(SMOLLM2_135M, 134_515_008), (QWEN25_05B, 494_032_768)])
def test_published_counts(config: dict[str, Any], count: int) -> None:
    arch = read_architecture(config)
    assert parameters(arch) == count == sum(prod(shape) for shape in weight_shapes(arch).values())


@pytest.mark.training
@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_transformers(variant: dict[str, Any]) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = TINY | variant
    with torch.device("meta"):
        settings = {key: value for key, value in config.items() if key != "model_type"}
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(config["model_type"], **settings)
        )
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if variant["tie_word_embeddings"]:
        del expected["lm_head.weight"]
    arch = read_architecture(config)
    assert weight_shapes(arch) == expected
    assert parameters(arch) == sum(weight.numel() for weight in model.parameters())
    assert layer_parameters(arch) == sum(weight.numel() for weight in model.model.layers[0].parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"model_type": None}, "no model_type"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "576"}, "hidden_size is '576'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_key_value_heads": 2}, "no multiple of num_key_value_heads 2"),
        ({"num_attention_heads": 10, "num_key_value_heads": 5}, "hidden_size 576"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "no causal language model"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_refusals_say_what_is_supported(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LtpError) as caught:
        read_architecture(SMOLLM2_135M | change)
    assert caught.value.code is ErrorCode.MODEL_UNREADABLE
    assert said in caught.value.message and "qwen2" in caught.value.hint
