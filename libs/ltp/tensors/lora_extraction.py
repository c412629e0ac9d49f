"""Turns the difference between a model and its base into a LoRA adapter of a given rank, in peft's format.

The best approximation of rank r is the truncated singular value decomposition (Eckart and Young 1936), found here by random
projection with power iterations (Halko, Martinsson, Tropp 2011, arXiv:0909.4061) seeded by the weight's name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ltp.tensors.adapters import CONFIG, PREFIX, WEIGHTS
from ltp.tensors.layout import Target, shard_of
from ltp.tensors.operation import Stopped, Tell
from ltp.tensors.plan import Model, refused

if TYPE_CHECKING:
    from torch import Tensor

_LINEAR = re.compile(r"\.(?:[a-z0-9]+_proj|c_attn|c_proj|c_fc|query_key_value|dense\w*)\.weight$")
_OVERSAMPLE, _POWER = 16, 4


class LoraRecipe(BaseModel):
    """What to extract: the rank, and which linear weights (a regular expression on their names)."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1)
    base_model: str = Field(min_length=1)
    rank: int = Field(default=16, ge=1, le=4096)
    modules: str | None = None


class LoraExtraction:
    """An extraction that passed its preflight. Raises OPERATION_REFUSED when the two models have other shapes."""

    kind, method, is_model = "lora", "lora_extraction", False

    def __init__(self, recipe: LoraRecipe, *, seed: int = 0) -> None:
        self.models = [Model.open(recipe.base_model), Model.open(recipe.model)]
        self.recipe, self._rank, self._seed = recipe.model_dump(exclude_none=True), recipe.rank, seed
        base, tuned = self.models
        chosen = _pattern(recipe.modules)
        self._names = [n for n, t in base.files.tensors.items() if len(t.shape) == 2 and chosen.search(n)]
        if not self._names:
            raise refused("No weight of the base matches `modules`.", "Leave it out for every linear projection.")
        for name in self._names:
            there = tuned.files.tensors.get(name)
            if there is None or there.shape != base.files.tensors[name].shape:
                shape = None if there is None else list(there.shape)
                wanted = list(base.files.tensors[name].shape)
                raise refused(f"{name} is {wanted} in the base and {shape} in the model.", "Give the model's own base.")
        self._targets = [target for name in self._names for target in self._pair(name)]
        self.write_bytes = sum(target.size for target in self._targets)

    def _pair(self, name: str) -> tuple[Target, Target]:
        rows, columns = self.models[0].files.tensors[name].shape
        rank = min(self._rank, rows, columns)
        module = PREFIX + name.removesuffix(".weight")
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        return Target(a, "F32", (rank, columns)), Target(b, "F32", (rows, rank))

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        return {
            "kind": self.kind,
            "method": self.method,
            "models": [model.reference for model in self.models],
            "tensors": len(self._targets),
            "rank": self._rank,
            "write_bytes": self.write_bytes,
            "findings": [],
        }

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Weight by weight; an interrupted extraction begins anew."""
        # torch takes two seconds to load, which a preflight must not wait for.
        from ltp.tensors.shards import memory_of

        shard = shard_of(WEIGHTS, self._targets)
        errors: dict[str, float] = {}
        with (directory / WEIGHTS).open("wb") as stream:
            stream.write(shard.header)
            for done, name in enumerate(self._names):
                if stop.is_set():
                    raise Stopped
                a, b, errors[name] = self._factors(name)
                for tensor in (a, b):
                    stream.write(memory_of(tensor))
                share = (done + 1) / len(self._names)
                tell({"stage": "extract", "done_bytes": int(share * self.write_bytes), "total_bytes": self.write_bytes})
        modules = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in self._names})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self._rank,
            # B @ A is the difference itself.
            "lora_alpha": self._rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": modules,
            "base_model_name_or_path": str(self.models[0].files.path),
            "inference_mode": True,
        }
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (directory / "extraction.json").write_text(json.dumps({"relative_error": errors}, indent=2) + "\n")

    def _factors(self, name: str) -> tuple[Tensor, Tensor, float]:
        import torch

        from ltp.tensors.counter_rng import key_of
        from ltp.tensors.readers import Bench, Files, whole

        files = Files()
        try:
            bench = Bench(files)
            base, tuned = (torch.from_numpy(whole(bench, model.files.tensors[name])) for model in self.models)
        finally:
            files.close()
        delta = tuned.sub_(base)
        generator = torch.Generator().manual_seed(key_of(self._seed, name, 0) % (1 << 63))
        rank = min(self._rank, *delta.shape)
        u, s, v = _low_rank(delta, rank, generator)
        root = s.sqrt()
        a, b = (v * root).T.contiguous(), (u * root).contiguous()
        size = float(delta.norm())
        error = float(delta.addmm_(b, a, alpha=-1).norm()) / size if size else 0.0
        return a, b, error


def _pattern(modules: str | None) -> re.Pattern[str]:
    try:
        return re.compile(modules) if modules else _LINEAR
    except re.error as error:
        raise refused(f"modules {modules!r} is no regular expression: {error}.", "Correct it.") from error


def _low_rank(delta: Tensor, rank: int, generator: Any) -> tuple[Tensor, Tensor, Tensor]:
    """U [rows, rank], S [rank], V [columns, rank] of the best approximation of that rank."""
    import torch

    width = min(rank + _OVERSAMPLE, *delta.shape)
    basis = delta @ torch.randn(delta.shape[1], width, generator=generator)
    for _ in range(_POWER):
        basis = delta @ torch.linalg.qr(delta.T @ torch.linalg.qr(basis).Q).Q
    basis = torch.linalg.qr(basis).Q
    u, s, vt = torch.linalg.svd(basis.T @ delta, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], vt[:rank].T
