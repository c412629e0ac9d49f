"""Writes a checkpoint as verl's Megatron engine does, with megatron-core itself and no GPU: how `tests/data/megatron.tar.gz` was made.

    pip install --no-deps --target SITE megatron-core==0.16.1
    PYTHONPATH=SITE python -m torch.distributed.run --nproc-per-node 4 tests/service/surgery/write_megatron.py DIRECTORY 2 2 qwen2
    (and with --nproc-per-node 1, DIRECTORY 1 1 qwen3)

Beside it, as `reference.safetensors`: the weights under Hugging Face's names, put together from what each rank held; and for one
rank `logits.safetensors`, what megatron-core's own model computes.
"""

# pyright: basic

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

LAYERS, HIDDEN, HEADS, GROUPS, FFN, VOCAB, PADDED = 4, 16, 4, 2, 24, 37, 40


def config(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"model_type": kind, "hidden_size": HIDDEN, "intermediate_size": FFN, "vocab_size": VOCAB}
    found |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    found |= {"max_position_embeddings": 64, "tie_word_embeddings": False, "rope_theta": 10000.0, "rms_norm_eps": 1e-5}
    found |= {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "head_dim": 8 if kind == "qwen3" else HIDDEN // HEADS,
    }
    return found


def model(kind: str, tensor: int, pipeline: int) -> Any:
    from megatron.core import mpu
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    qwen3 = kind == "qwen3"
    settings = TransformerConfig(
        num_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=HEADS, num_query_groups=GROUPS, ffn_hidden_size=FFN,
        kv_channels=config(kind)["head_dim"], tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline,
        use_cpu_initialization=True, gated_linear_unit=True, activation_func=torch.nn.functional.silu,
        add_bias_linear=False, add_qkv_bias=not qwen3, normalization="RMSNorm", qk_layernorm=qwen3, hidden_dropout=0.0,
        attention_dropout=0.0, pipeline_dtype=torch.float32, params_dtype=torch.float32, bias_dropout_fusion=False,
        masked_softmax_fusion=False, gradient_accumulation_fusion=False, persist_layer_norm=False, apply_rope_fusion=False,
    )  # fmt: skip
    made = GPTModel(
        settings, get_gpt_layer_local_spec(qk_layernorm=qwen3, normalization="RMSNorm"), vocab_size=PADDED,
        max_sequence_length=64, pre_process=mpu.is_pipeline_first_stage(), post_process=mpu.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=False, position_embedding_type="rope", rotary_base=10000,
    )  # fmt: skip
    torch.manual_seed(5 + dist.get_rank())
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
        if not getattr(weight, "tensor_model_parallel", False):
            # What is not split is the same on every tensor parallel rank.
            group = mpu.get_tensor_model_parallel_group()
            dist.broadcast(weight.data, mpu.get_tensor_model_parallel_src_rank(), group=group)
    return made


def reference(ranks: list[list[dict[str, Any]]], head_dim: int) -> dict[str, Any]:  # noqa: PLR0912 - one branch a kind
    """Hugging Face's weights from `ranks[pipeline][tensor]`, by what each kind of parallel layer means."""
    found: dict[str, Any] = {}
    each = HEADS // GROUPS
    for stage, held in enumerate(ranks):
        for name in held[0]:
            parts = [rank[name] for rank in held]
            layer = (
                f"model.layers.{stage * LAYERS // len(ranks) + int(name.split('.')[2])}" if ".layers." in name else ""
            )
            if "word_embeddings" in name or "output_layer" in name:
                whole = torch.cat(parts)[:VOCAB]
                found["model.embed_tokens.weight" if "word" in name else "lm_head.weight"] = whole
            elif "linear_qkv." in name and "layer_norm" not in name:
                heads: dict[str, list[Any]] = {"q": [], "k": [], "v": []}
                for part in parts:
                    rows = list(part.split(head_dim))
                    for group in range(len(rows) // (each + 2)):
                        mine = rows[group * (each + 2) : (group + 1) * (each + 2)]
                        heads["q"] += mine[:each]
                        heads["k"].append(mine[each])
                        heads["v"].append(mine[each + 1])
                for letter, rows in heads.items():
                    found[f"{layer}.self_attn.{letter}_proj.{name.split('.')[-1]}"] = torch.cat(rows)
            elif "linear_fc1.weight" in name:
                halves = [part.split(part.shape[0] // 2) for part in parts]
                found[f"{layer}.mlp.gate_proj.weight"] = torch.cat([gate for gate, _ in halves])
                found[f"{layer}.mlp.up_proj.weight"] = torch.cat([up for _, up in halves])
            elif "linear_proj" in name:
                found[f"{layer}.self_attn.o_proj.weight"] = torch.cat(parts, dim=1)
            elif "linear_fc2" in name:
                found[f"{layer}.mlp.down_proj.weight"] = torch.cat(parts, dim=1)
            elif "final_layernorm" in name:
                found["model.norm.weight"] = parts[0]
            elif "q_layernorm" in name or "k_layernorm" in name:
                found[f"{layer}.self_attn.{name.split('.')[-2][0]}_norm.weight"] = parts[0]
            else:
                found[f"{layer}.{'post_attention' if 'mlp' in name else 'input'}_layernorm.weight"] = parts[0]
    return {name: weight.contiguous() for name, weight in found.items()}


def main() -> None:
    directory, tensor, pipeline, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # The save asks for the GPU's stream, which here is none.
    for name in ("synchronize", "current_device", "empty_cache"):
        setattr(torch.cuda, name, lambda *_: "cpu")
    dist.init_process_group("gloo")
    from megatron.core import dist_checkpointing, mpu
    from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    mpu.initialize_model_parallel(tensor, pipeline)
    made, rank = model(kind, tensor, pipeline), dist.get_rank()
    out = directory / "model" / "dist_ckpt"
    out.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    group = mpu.get_data_parallel_group(with_context_parallel=True)
    # As verl.utils.megatron.dist_checkpointing does.
    strategy = FullyParallelSaveStrategyWrapper(TorchDistSaveShardedStrategy("torch_dist", 1), group)
    dist_checkpointing.save(
        {"model": made.sharded_state_dict()}, str(out), sharded_strategy=strategy, validate_access_integrity=True
    )
    mine = {name: weight.detach() for name, weight in made.named_parameters()}
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    if rank == 0:
        ranks = [everybody[stage * tensor : (stage + 1) * tensor] for stage in range(pipeline)]
        save_file(reference(ranks, config(kind)["head_dim"]), directory / "reference.safetensors")
        (directory / "model" / "huggingface").mkdir()
        (directory / "model" / "huggingface" / "config.json").write_text(json.dumps(config(kind)))
        if len(everybody) == 1:
            # Nothing is dropped at random here, and the state it would be drawn from is the GPU's.
            CudaRNGStatesTracker.fork = lambda *_: nullcontext()
            tokens = torch.arange(20)[None] % VOCAB
            mask = torch.ones(20, 20, dtype=torch.bool).triu(1)[None, None]
            logits = made.eval()(tokens, torch.arange(20)[None], mask)[..., :VOCAB]
            save_file({"logits": logits.detach().contiguous()}, directory / "logits.safetensors")
    dist.barrier()


if __name__ == "__main__":
    main()
