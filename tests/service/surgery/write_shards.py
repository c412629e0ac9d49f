"""Writes checkpoints as verl 0.9.1's FSDP2 engine does: `write_shards.py ROOT 1-tied 2-untied ...`, one directory each.

Kept beside the shards, as `reference.safetensors`: the same weights, saved before they were sharded.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import start_processes
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast


def config(tied: bool) -> LlamaConfig:
    # Odd widths, so that shards along the first dimension are uneven; a bias gives one-dimensional weights.
    return LlamaConfig(
        hidden_size=15, intermediate_size=21, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        head_dim=6, vocab_size=33, max_position_embeddings=64, tie_word_embeddings=tied, attention_bias=True,
        architectures=["LlamaForCausalLM"], dtype="bfloat16",
    )  # fmt: skip


def adapted(model: torch.nn.Module, directory: Path, rank: int) -> torch.nn.Module:
    """The model as verl's engine has it under LoRA; what peft itself makes of it is kept as the reference."""
    from peft import LoraConfig, get_peft_model

    plain = copy.deepcopy(model)
    wrapped = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", bias="none")
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    if rank == 0:
        plain.save_pretrained(directory / "base")
        merged = copy.deepcopy(wrapped).merge_and_unload()
        save_file(
            {name: value.clone() for name, value in merged.state_dict().items()}, directory / "reference.safetensors"
        )
        (directory / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}')
    return wrapped


def write(rank: int, directory: Path, world_size: int, tying: str) -> None:
    tied = tying == "tied"
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world_size)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(tied), dtype=torch.float32)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    if tying == "lora":
        model = adapted(model, directory, rank)
    elif rank == 0:
        kept = {name: weight for name, weight in model.state_dict().items() if not (tied and name == "lm_head.weight")}
        save_file({name: weight.clone() for name, weight in kept.items()}, directory / "reference.safetensors")
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("fsdp",))
    for layer in (model.base_model.model if tying == "lora" else model).model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    torch.save(model.state_dict(), directory / f"model_world_size_{world_size}_rank_{rank}.pt")
    dist.destroy_process_group()


def main(directory: Path, world_size: int, tying: str) -> None:
    directory.mkdir(parents=True)
    # Forked, so that torch and transformers are imported once for all ranks.
    start_processes(write, args=(directory, world_size, tying), nprocs=world_size, start_method="fork")
    (directory / "rendezvous").unlink(missing_ok=True)
    (directory / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": world_size}))
    files = directory / "huggingface"
    config(tying == "tied").save_pretrained(files)
    (files / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.5}')
    (files / "chat_template.jinja").write_text("{{ messages }}")
    (files / "evil.py").write_text("raise SystemExit")
    from tokenizers import Tokenizer, models

    words = {f"w{n}": n for n in range(33)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))).save_pretrained(files)


if __name__ == "__main__":
    for kind in sys.argv[2:]:
        size, tying = kind.split("-")
        main(Path(sys.argv[1]) / kind, int(size), tying)
