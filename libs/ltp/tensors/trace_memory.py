"""The second opinion on memory: runs the real model code on meta tensors and replays its allocations.

`python -m ltp.tensors.trace_memory` reads {"config": {...}, "step": {...}} from standard input and prints the peaks as JSON:
a process of its own, because it needs torch and transformers, which the planner does not. No weight is ever made. Meta kernels
do not show what CUDA kernels take for themselves: fused attention's backward and cuBLAS's workspaces are added.
Without sharding and autocast only (bf16 or fp32): those are the replay's part (`ltp.core.replay`).
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ltp.core.replay.allocator import MIB, Allocator

_aten = torch.ops.aten
_ATTENTION_BACKWARD = (
    _aten._scaled_dot_product_flash_attention_backward.default,  # noqa: SLF001
    _aten._scaled_dot_product_efficient_attention_backward.default,  # noqa: SLF001
)
_WORKSPACE = 32 * MIB
_STEPS = 3


class Tracer(TorchDispatchMode):
    """Hands every storage that appears to an allocator, and gives it back when the storage goes."""

    def __init__(self, memory: Allocator, *, padded: bool = False) -> None:
        super().__init__()
        self.memory = memory
        self.padded = padded
        self._alive: set[int] = set()

    def track(self, tensor: torch.Tensor) -> None:
        """Count a meta tensor's storage from now until nothing refers to it."""
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
        if key in self._alive or not size:
            return
        number = self.memory.malloc(size)
        self._alive.add(key)
        weakref.finalize(storage, self._gone, key, number).atexit = False

    def _gone(self, key: int, number: int) -> None:
        self._alive.discard(key)
        self.memory.free(number)

    def workspace(self, size: int) -> None:
        """What a kernel takes for the time it runs."""
        self.memory.free(self.memory.malloc(size))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation on meta tensors and track what comes out."""
        if func is _aten._local_scalar_dense.default and args[0].is_meta:  # noqa: SLF001
            # Only asked for whether a mask is all ones, or a batch holds packed sequences: never.
            return not self.padded if args[0].dtype is torch.bool else 1
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.track(tensor)
        if func in _ATTENTION_BACKWARD:
            query, key = args[1], args[2]
            expanded = 2 * 2 * query.numel() if key.shape[1] != query.shape[1] else 0
            self.workspace(4 * query.numel() + expanded)
        return out


def _flash(
    q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **more: Any
) -> Any:
    """What SDPA saves on CUDA: queries, keys, values, output and log-sums; with a mask also that mask as a bias."""
    scale, bias = more.get("scale"), attn_mask
    if bias is None and q.shape[-1] == v.shape[-1]:
        return _aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]  # noqa: SLF001
    if bias is not None and bias.dtype is torch.bool:
        bias = torch.where(bias, *(torch.full((), x, dtype=q.dtype, device="meta") for x in (0.0, float("-inf"))))
    if bias is not None:
        bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
    return _aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout_p, is_causal, scale=scale)[0]  # noqa: SLF001


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Fused attention as on CUDA, and no question to autocast about the meta device, which it does not know."""
    attention, autocast = torch.nn.functional.scaled_dot_product_attention, torch.autocast
    torch.nn.functional.scaled_dot_product_attention = _flash

    def without_meta(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    torch.autocast = without_meta  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = attention
        torch.autocast = autocast  # pyright: ignore[reportAttributeAccessIssue]


def build(config: dict[str, Any], dtype: torch.dtype, *, checkpointing: bool, lora_rank: int) -> Any:
    """The model on the meta device, as training would set it up."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    named = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(config["model_type"], **named, use_cache=False)
    settings._attn_implementation = "sdpa"  # noqa: SLF001
    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    # no_init_weights skips the tying too.
    model.tie_weights()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()
        lora = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    return model.train()


def trace(config: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """Peaks in bytes of three optimizer steps: {"allocated", "reserved", "stages", "parameters", "trained"}.

    `step` has micro_batch, sequence, and may have checkpointing, lora_rank, precision (bf16 or fp32), padded.
    """
    dtype = torch.float32 if step.get("precision") == "fp32" else torch.bfloat16
    memory = Allocator()
    tracer = Tracer(memory, padded=bool(step.get("padded")))
    lora = int(step.get("lora_rank", 0))
    model = build(config, dtype, checkpointing=bool(step.get("checkpointing")), lora_rank=lora)
    for tensor in (*model.parameters(), *model.buffers()):
        tracer.track(tensor)
    memory.mark("init")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    # No empty batch of workspaces: the caller's thread multiplies first, autograd's when backward begins.
    taken = [memory.malloc(_WORKSPACE)]
    with _as_on_cuda(), tracer:
        _run(model, trained, step, memory, lambda: taken.append(memory.malloc(_WORKSPACE)))
    return {
        "allocated": max(size for stage, size in memory.stages.items() if stage != "init"),
        "reserved": memory.peak_reserved,
        "stages": dict(memory.stages),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained": sum(weight.numel() for weight in trained),
    }


def _run(model: Any, trained: list[Any], step: dict[str, Any], memory: Allocator, backward: Callable[[], None]) -> None:
    optimizer = torch.optim.AdamW(trained, lr=1e-6, foreach=True)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    shape = (int(step["micro_batch"]), int(step["sequence"]))
    for index in range(_STEPS):
        ids = torch.randint(0, vocabulary, shape, device="meta")
        # Rows of different lengths: whether the mask is all ones is then asked, and it is not.
        more = {"attention_mask": torch.ones(shape, dtype=torch.int64, device="meta")} if step.get("padded") else {}
        output = model(input_ids=ids, labels=ids, **more)
        memory.mark("forward")
        if not index:
            backward()
        output.loss.backward()
        memory.mark("backward")
        del output
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        memory.mark("optimizer")


def main() -> int:
    """Exit code 0 with the peaks, 1 with {"error": ...}."""
    try:
        asked = json.load(sys.stdin)
        print(json.dumps(trace(asked["config"], asked["step"])))  # noqa: T201 -- its answer
    except Exception as error:  # whatever the model's code raises is the answer, and the reader's to judge
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}))  # noqa: T201 -- its answer
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
