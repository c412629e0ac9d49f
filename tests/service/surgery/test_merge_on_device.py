"""Merges on a device, with torch's processor as the device: the same code as on a GPU, and the bytes of the engine without one."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors import accelerator, device_engine, journal
from ltp.tensors.device_bench import DeviceBench
from ltp.tensors.operate import check, run
from ltp.tensors.operation import Stopped
from tests.service.surgery.merge_models import linear, write

# Embeddings and projections of more than one piece of the processor's, and vectors of less.
SIZES = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1, "vocab_size": 2001}
DEVICE = "cpu:0"


def merge(recipe: dict[str, Any], out: Path, device: str | None = None, **more: Any) -> bytes:
    spec = {"kind": "merge", "recipe": recipe, "out": str(out), "proof": False, "seed": 7} | more
    run(spec | ({"device": device} if device else {}), Event(), lambda _: None)
    return (out / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write(folder / f"m{seed}", seed, **SIZES) for seed in range(3)]


def recipe(models: list[Path], method: str, shared: dict[str, Any], **own: float) -> dict[str, Any]:
    """A merge of all three, or of two where the method takes two, on the first where it takes a base."""
    named = {"slerp": models[:2], "nearswap": models[:2], "nuslerp": models[:2], "passthrough": models[:1]}.get(method)
    based = method not in {"linear", "nuslerp", "multislerp", "karcher", "passthrough"}
    chosen = named or (models[1:] if based else models)
    found = {"merge_method": method, "models": [{"model": str(m), "parameters": dict(own)} for m in chosen]}
    return found | ({"base_model": str(models[0])} if based else {}) | ({"parameters": shared} if shared else {})


METHODS: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "linear": ("linear", {}, {"weight": 0.3}),
    "sum": ("linear", {"normalize": False}, {"weight": 0.7}),
    "nearswap": ("nearswap", {"t": 0.3}, {}),
    "passthrough": ("passthrough", {}, {"scale": 1.3}),
    "task_arithmetic": ("task_arithmetic", {"lambda": 0.7, "normalize": True}, {"weight": 0.3}),
    "ties": ("ties", {}, {"weight": 0.3, "density": 0.37}),
    "dare_ties": ("dare_ties", {"rescale": False}, {"weight": 0.3, "density": 0.5}),
    "dare_linear": ("dare_linear", {"rescale": False}, {"weight": 0.3, "density": 0.37}),
    "della": ("della", {"rescale": False}, {"weight": 0.3, "density": 0.5}),
    "breadcrumbs_ties": ("breadcrumbs_ties", {}, {"weight": 0.3, "density": 0.5}),
}
# A sum over the whole weight, whose last bits follow from its parts.
REDUCED: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "slerp": ("slerp", {"t": 0.3}, {}),
    "nuslerp by column": ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": 0.5}),
    "multislerp": ("multislerp", {}, {"weight": 0.3}),
    "karcher": ("karcher", {}, {}),
    "model_stock": ("model_stock", {}, {}),
    "model_stock by row": ("model_stock", {"filter_wise": True}, {}),
    "sce": ("sce", {"select_topk": 0.3}, {}),
    "dare_ties": ("dare_ties", {}, {"weight": 0.3, "density": 0.5}),
}


@pytest.mark.parametrize("types", [{}, {"dtype": "float32", "out_dtype": "float16"}], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", METHODS)
def test_what_looks_at_each_element_gives_the_same_bytes(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, types: dict[str, Any]
) -> None:
    method, shared, own = METHODS[name]
    asked = recipe(models, method, shared, **own) | types
    expected = merge(asked, tmp_path / "processor")
    assert merge(asked, tmp_path / "same", DEVICE) == expected
    # Pieces as large as on a GPU, which hold the whole of some weights.
    monkeypatch.setattr(accelerator, "PIECE", 1 << 19)
    assert merge(asked, tmp_path / "large", DEVICE) == expected


@pytest.mark.parametrize("name", REDUCED)
def test_what_sums_over_a_weight_gives_the_same_bytes_in_the_same_pieces(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method, shared, own = REDUCED[name]
    asked = recipe(models, method, shared, **own)
    expected = merge(asked, tmp_path / "processor")
    assert merge(asked, tmp_path / "same", DEVICE) == expected
    monkeypatch.setattr(accelerator, "PIECE", 1 << 19)
    merge(asked, tmp_path / "large", DEVICE)
    one, other = (load_file(tmp_path / out / "model.safetensors") for out in ("processor", "large"))
    for weight, theirs in one.items():
        away = (other[weight].float() - theirs.float()).abs()
        # One step of bfloat16; near zero the last bits of a coefficient are many.
        assert bool((away <= 2**-7 * theirs.float().abs() + 5e-5).all()), (weight, float(away.max()))


def test_adapters_and_vocabularies_are_prepared_by_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"w{n}" for n in range(1200)]
    base = write(tmp_path / "base", 0, **{**SIZES, "words": words})
    tuned = write(tmp_path / "tuned", 1, **{**SIZES, "words": [*reversed(words), "more"]})
    union = linear(base, tuned, base_model=str(base), tokenizer_source="union")
    lora = {"model": str(write(tmp_path / "other", 2, **{**SIZES, "words": words})), "base_model": str(base), "rank": 2}
    run({"kind": "lora", "recipe": lora, "out": str(tmp_path / "lora")}, Event(), lambda _: None)
    adapted = {"merge_method": "passthrough", "models": [{"model": f"{base}+{tmp_path / 'lora'}"}]}
    for place, asked in enumerate((union, adapted)):
        expected = merge(asked, tmp_path / f"{place}-processor")
        with monkeypatch.context() as large:
            large.setattr(accelerator, "PIECE", 1 << 19)
            assert merge(asked, tmp_path / f"{place}-device", DEVICE) == expected


def test_an_average_on_a_device(models: list[Path], tmp_path: Path) -> None:
    spec = {"kind": "average", "recipe": {"method": "uniform", "models": [str(m) for m in models]}, "proof": False}
    for out, more in (("one", {}), ("two", {"device": DEVICE})):
        run(spec | {"out": str(tmp_path / out)} | more, Event(), lambda _: None)
    one, two = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "two"))
    assert one == two


def test_a_device_with_little_memory_is_given_smaller_pieces(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(models, *METHODS["ties"][:2], **METHODS["ties"][2])
    expected, loaded, room = merge(asked, tmp_path / "processor"), DeviceBench.load, [1 << 18]

    def scarce(self: DeviceBench, stored: Any, start: int, stop: int) -> Any:
        if stop - start > room[0]:
            raise torch.OutOfMemoryError("no room")
        return loaded(self, stored, start, stop)

    monkeypatch.setattr(DeviceBench, "load", scarce)
    monkeypatch.setattr(accelerator, "PIECE", 1 << 20)
    assert merge(asked, tmp_path / "scarce", DEVICE) == expected
    # Several threads at once, of which only one at a time may have it all.
    assert merge(asked, tmp_path / "many", DEVICE, threads=6) == expected
    room[0] = 1000
    with pytest.raises(LtpError, match="no room for pieces of 262,144 elements") as refused:
        merge(asked, tmp_path / "none", DEVICE)
    assert refused.value.code is ErrorCode.DEVICE_OUT_OF_MEMORY and "nvidia-smi" in refused.value.hint
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".none*"))


def test_a_value_that_is_not_finite_is_found_on_the_device(models: list[Path], tmp_path: Path) -> None:
    spoiled = write(tmp_path / "spoiled", 5, **SIZES)
    weights = load_file(spoiled / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][100, 7] = float("nan")
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LtpError, match="holds nan at element 51207") as refused:
        merge(linear(models[0], spoiled), tmp_path / "out", DEVICE)
    assert refused.value.code is ErrorCode.MERGE_FAILED
    with pytest.raises(LtpError, match="NaN or infinity in F16"):
        merge(recipe(models, "passthrough", {}, scale=1e6) | {"out_dtype": "float16"}, tmp_path / "out", DEVICE)


def test_a_stop_goes_on_with_the_same_bytes(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sandbox has no id of its start; what it has instead serves as well.
    monkeypatch.setattr(journal, "_BOOT", tmp_path / "none")
    asked = recipe(models, *METHODS["linear"][:2], **METHODS["linear"][2])
    expected, stop, parts = merge(asked, tmp_path / "whole", DEVICE), Event(), []
    written = device_engine.write_at

    def stopping(*arguments: Any) -> None:
        written(*arguments)
        parts.append(1)
        if len(parts) == 3:
            stop.set()

    spec = {"kind": "merge", "recipe": asked, "out": str(tmp_path / "out"), "proof": False, "seed": 7}
    with monkeypatch.context() as slow:
        slow.setattr(device_engine, "write_at", stopping)
        with pytest.raises(Stopped):
            run(spec | {"device": DEVICE, "threads": 1}, stop, lambda _: None)
    assert merge(asked, tmp_path / "out", DEVICE) == expected
    assert len(parts) < len(load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_before_anything_is_read(models: list[Path], tmp_path: Path) -> None:
    asked = recipe(models, *METHODS["linear"][:2], **METHODS["linear"][2])
    spec = {"kind": "merge", "recipe": asked, "out": str(tmp_path / "out"), "device": "gpu"}
    for verb in (check, lambda spec: run(spec, Event(), lambda _: None)):
        with pytest.raises(LtpError) as refused:
            verb(spec)
        assert refused.value.code in {ErrorCode.HOST_UNFIT, ErrorCode.NO_HOST} and "device" in refused.value.hint
    assert not os.listdir(tmp_path)
    assert merge(asked, tmp_path / "auto", "auto") == merge(asked, tmp_path / "processor")


def test_a_dot_product_is_the_same_in_every_thread(models: list[Path], tmp_path: Path) -> None:
    asked = recipe(models, *REDUCED["slerp"][:2]) | {"dtype": "float32"}
    one = merge(asked, tmp_path / "one", threads=1)
    assert merge(asked, tmp_path / "many", threads=5) == one == merge(asked, tmp_path / "device", DEVICE, threads=3)
