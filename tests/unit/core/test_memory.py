"""The closed form against what an H200 measured, against autograd, and against plain reason."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.device_memory import Rollout, estimate
from ltp.core.memory import GIB, LossHead, Precision, Step, layer_activations, states, training_peak
from ltp.core.model_config import Architecture, parameters, read_architecture

MEASURED = Path(__file__).resolve().parents[2] / "data" / "gpu_memory_h200.jsonl"
HEADS = {"hf": LossHead.CROSS_ENTROPY, "chunk": LossHead.CHUNKED, "grpo": LossHead.POLICY}
SMALL: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}  # fmt: skip


def measured(mode: str, lora: bool) -> list[tuple[Architecture, Step, int]]:
    """Rows of the measurement that the model covers: dense, resharded, not offloaded."""
    if not MEASURED.exists():
        pytest.skip(f"{MEASURED} is not on this machine")
    rows = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    found: list[tuple[Architecture, Step, int]] = []
    for row in rows:
        uncovered = any(word in row["case"] for word in ("moe", "rsh", "offload"))
        if row.get("kind") or not row["ok"] or uncovered or row["mode"] != mode or bool(row["lora"]) is not lora:
            continue
        arch = read_architecture(row["config"] | {"max_position_embeddings": 131072})
        step = Step(
            Precision(mode), row["mb"], row["seq"], row["gc"], row["lora"], HEADS[row["loss"]],
            "accum" in row["case"], row["world"],
        )  # fmt: skip
        found.append((arch, step, row["alloc_peak"]))
    return found


@pytest.mark.parametrize(
    ("mode", "lora"), [("bf16", False), ("bf16", True), ("amp", False), ("fsdp2", False), ("fsdp2", True)]
)
def test_allocated_peak_of_an_h200(mode: str, lora: bool) -> None:
    errors = [abs(training_peak(arch, step).allocated / peak - 1) for arch, step, peak in measured(mode, lora)]
    assert median(errors) < 0.02 and max(errors) < 0.03, errors


@pytest.mark.parametrize("mode", ["bf16", "amp", "fsdp2"])
def test_upper_bound_holds_on_every_measured_row(mode: str) -> None:
    for arch, step, peak in measured(mode, False) + measured(mode, True):
        found = estimate(arch, step)
        assert found.upper_bytes - found.components["context"] > peak


@pytest.mark.training
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_fp32_activations_are_what_autograd_saves(kind: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = {
        "model_type": kind, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "max_position_embeddings": 512,
    }  # fmt: skip

    def saved(layers: int) -> int:
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config, num_hidden_layers=layers)
        )
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        # Storages are kept alive here, so that no address is used twice.
        kept: dict[int, Any] = {}

        def pack(tensor: Any) -> Any:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(input_ids=torch.zeros(2, 64, dtype=torch.long), use_cache=False)
        assert output.logits.requires_grad
        return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in weights)

    arch = read_architecture(config | {"num_hidden_layers": 1})
    expected = layer_activations(arch, Step(Precision.FP32, 2, 64, checkpointing=False))
    assert (saved(3) - saved(1)) // 2 == expected


def test_states_are_sixteen_bytes_a_parameter_over_the_shards() -> None:
    arch = read_architecture(SMALL)
    held = states(arch, Step(Precision.FSDP2, 1, 64, checkpointing=True, shards=4))
    assert held.weights + held.gradients + held.optimizer == pytest.approx(16 * parameters(arch) / 4, rel=1e-6)


@given(
    st.sampled_from(list(Precision)), st.sampled_from([1, 2, 4]), st.sampled_from([128, 1024]), st.booleans(),
    st.sampled_from([0, 16]), st.sampled_from(list(LossHead)),
)  # fmt: skip
def test_more_work_never_needs_less(
    precision: Precision, micro: int, sequence: int, checkpointing: bool, rank: int, head: LossHead
) -> None:
    arch = read_architecture(SMALL)
    step = Step(precision, micro, sequence, checkpointing, rank, head)
    found = estimate(arch, step)
    assert all(size >= 0 for size in found.components.values())
    assert found.bytes < found.upper_bytes
    longer = estimate(arch, Step(precision, micro, 2 * sequence, checkpointing, rank, head))
    assert longer.bytes >= found.bytes
    with_generator = estimate(arch, step, Rollout(8, 256))
    assert with_generator.bytes > found.bytes


def test_smollm_on_a_processor_is_near_what_was_seen() -> None:
    """verl-on-cpu.md §2: SFT of SmolLM2-135M, 8 sequences of about 167 tokens, fp32: 5.9 GB of system memory used."""
    arch = read_architecture(
        SMALL | {
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        }
    )  # fmt: skip
    found = estimate(arch, Step(Precision.FP32, 8, 167, checkpointing=False))
    assert found.bytes == pytest.approx(5.9e9, rel=0.25)
    assert 5.9e9 < found.upper_bytes < 9 * GIB


@pytest.mark.parametrize(
    ("micro_batch", "checkpointing", "allocated_gib"), [(16, False, 18.950), (4, False, 6.473), (16, True, 8.200)]
)
def test_verls_sft_on_an_h200_is_what_was_seen(micro_batch: int, checkpointing: bool, allocated_gib: float) -> None:
    """SmolLM2-135M, full rows of 1,024 tokens, 16 a step, FSDP 2, SDPA, no flash-attn: max_memory_allocated_gb."""
    smollm = read_architecture(
        {
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
        }
    )  # fmt: skip
    step = Step(
        Precision.FSDP2, micro_batch, 1024, checkpointing, loss_head=LossHead.LABELS, accumulates=micro_batch < 16
    )
    assert training_peak(smollm, step).allocated / GIB == pytest.approx(allocated_gib, rel=0.02)
