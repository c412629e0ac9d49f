"""Every merge that must not succeed, with what it says; nothing is written for any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from ltp.core.errors import ErrorCode as Code
from ltp.core.errors import LtpError
from ltp.recipe_text import parse_merge
from ltp.tensors.operate import run
from tests.service.surgery.merge_models import linear, write

Here = dict[str, Path]
Recipe = dict[str, Any]


def pair(here: Here, method: str = "linear", base: str | None = None, **parameters: Any) -> Recipe:
    each = [{"model": str(here[name]), "parameters": {"weight": 1.0}} for name in ("one", "two")]
    found: Recipe = {"merge_method": method, "models": each}
    if base:
        found["base_model"] = str(here[base])
    if parameters:
        found["parameters"] = parameters
    if method in {"slerp", "nearswap", "passthrough"}:
        for model in each:
            del model["parameters"]
    return found


def weighed(here: Here, *weights: float, method: str = "linear", base: str | None = None, **each: Any) -> Recipe:
    found = pair(here, method, base)
    for model, weight in zip(found["models"], weights, strict=True):
        model["parameters"] = {"weight": weight} | each
    return found


def edited(change: Callable[[dict[str, Any]], object], model: str = "two") -> Callable[[Here], Recipe]:
    """The pair, after its second model's weights were changed."""

    def make(here: Here) -> Recipe:
        weights = load_file(here[model] / "model.safetensors")
        change(weights)
        save_file(weights, here[model] / "model.safetensors", metadata={"format": "pt"})
        return pair(here)

    return make


def configured(**config: Any) -> Callable[[Here], Recipe]:
    def make(here: Here) -> Recipe:
        path = here["two"] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return pair(here)

    return make


def filed(change: Callable[[Path], object]) -> Callable[[Here], Recipe]:
    def make(here: Here) -> Recipe:
        change(here["two"])
        return pair(here)

    return make


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def indexed(path: Path, files: dict[str, str]) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def twice(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    save_file(weights, path / "other.safetensors")
    names = list(weights)
    indexed(path, {names[0]: "other.safetensors", **dict.fromkeys(names[1:], "model.safetensors")})


def adapter(path: Path) -> None:
    (path / "config.json").unlink()
    (path / "adapter_config.json").write_text("{}")


def foreign_adapter(here: Here) -> Recipe:
    lora = here["one"].parent / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    pieces = {f"{stem}.lora_A.weight": torch.zeros(2, 99), f"{stem}.lora_B.weight": torch.zeros(24, 2)}
    save_file(pieces, lora / "adapter_model.safetensors")
    return {"merge_method": "passthrough", "models": [{"model": f"{here['one']}+{lora}"}]}


def poisoned(weights: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def endless(weights: dict[str, Any]) -> None:
    weights["model.norm.weight"][2] = float("inf")


def gappy(path: Path) -> None:
    document = json.loads((path / "tokenizer.json").read_text())
    document["model"]["vocab"]["w3"] = 400
    (path / "tokenizer.json").write_text(json.dumps(document))


def gappy_union(here: Here) -> Recipe:
    gappy(here["one"])
    return pair(here) | {"tokenizer_source": "union"}


def slices(here: Here, *ranges: tuple[int, int]) -> Recipe:
    sources = [
        {"model": str(here[name]), "layer_range": list(span), "parameters": {"weight": 1}}
        for name, span in zip(("one", "two"), ranges, strict=False)
    ]
    return {"merge_method": "linear", "slices": [{"sources": sources}]}


REFUSALS: list[tuple[str, Callable[[Here], Recipe], Code, str]] = [
    ("missing model", lambda h: linear(h["one"], h["one"] / "no"), Code.MODEL_NOT_FOUND, "There is no model directory /"),
    ("hub name", lambda h: linear(h["one"], Path("org/name")), Code.MODEL_NOT_FOUND, "no model directory org/name"),
    ("no models", lambda h: {"merge_method": "linear", "models": []}, Code.INVALID_RECIPE, "one of the two and not empty"),
    ("unknown method", lambda h: pair(h, "tis"), Code.INVALID_RECIPE, "unknown merge_method 'tis'"),
    ("misspelt parameter", lambda h: pair(h, normalise=True), Code.INVALID_RECIPE, "did you mean normalize?"),
    ("misspelt key", lambda h: pair(h) | {"dtpye": "bfloat16"}, Code.INVALID_RECIPE, "dtpye: unknown key"),
    ("unknown type", lambda h: pair(h) | {"dtype": "int8"}, Code.INVALID_RECIPE, "dtype"),
    ("density -1", lambda h: weighed(h, 1, 1, method="ties", base="base", density=-1), Code.INVALID_RECIPE, "density is -1"),
    ("density 53", lambda h: weighed(h, 1, 1, method="ties", base="base", density=53), Code.INVALID_RECIPE, "must be in [0, 1]"),
    ("t of 1.7", lambda h: pair(h, "slerp", "one", t=1.7), Code.INVALID_RECIPE, "t is 1.7"),
    ("t of nan", lambda h: pair(h, "slerp", "one", t=".nan"), Code.INVALID_RECIPE, "finite number"),
    ("no t", lambda h: pair(h, "slerp", "one"), Code.OPERATION_REFUSED, "parameter t is missing"),
    ("no weight", lambda h: {**pair(h, "slerp"), "merge_method": "linear"}, Code.OPERATION_REFUSED, "weight is missing"),
    ("weights sum to zero", lambda h: weighed(h, 1, -1), Code.OPERATION_REFUSED, "sum to zero"),
    ("no weight at all", lambda h: weighed(h, 0, 0, method="ties", base="base"), Code.OPERATION_REFUSED, "sum to zero"),
    ("epsilon too wide", lambda h: weighed(h, 1, 1, method="della", base="base", density=0.9, epsilon=0.2), Code.OPERATION_REFUSED, "leaves (0, 1)"),
    ("no base", lambda h: pair(h, "ties"), Code.OPERATION_REFUSED, "needs a base_model"),
    ("slerp of three", lambda h: {"merge_method": "slerp", "base_model": str(h["one"]), "parameters": {"t": 0.5}, "models": [{"model": str(h[n])} for n in ("one", "two", "base")]}, Code.OPERATION_REFUSED, "merges 2 models"),
    ("a model twice", lambda h: linear(h["one"], h["one"]), Code.OPERATION_REFUSED, "stands twice"),
    ("other architecture", configured(model_type="qwen2"), Code.OPERATION_REFUSED, "model_type"),
    ("quantised", configured(quantization_config={"bits": 4}), Code.OPERATION_REFUSED, "quantised"),
    ("other shape", edited(lambda w: w.update({"model.norm.weight": torch.zeros(9)})), Code.OPERATION_REFUSED, "different shapes"),
    ("missing tensor", edited(lambda w: w.pop("model.layers.1.mlp.up_proj.weight")), Code.OPERATION_REFUSED, "has no model.layers.1.mlp.up_proj.weight"),
    ("integer weights", edited(lambda w: w.update({"model.norm.weight": torch.zeros(16, dtype=torch.int8)})), Code.MODEL_UNREADABLE, "of type I8"),
    ("more layers than there are", lambda h: slices(h, (0, 9), (0, 9)), Code.OPERATION_REFUSED, "has 3 layers"),
    ("slices of different length", lambda h: slices(h, (0, 2), (0, 3)), Code.OPERATION_REFUSED, "different numbers of layers"),
    ("empty slice", lambda h: slices(h, (2, 2)), Code.INVALID_RECIPE, "holds no layer"),
    ("cut file", filed(cut), Code.MODEL_UNREADABLE, "two/model.safetensors is cut short"),
    ("empty file", filed(lambda p: (p / "model.safetensors").write_bytes(b"")), Code.MODEL_UNREADABLE, "two/model.safetensors"),
    ("broken header", filed(lambda p: (p / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b"notjson!")), Code.MODEL_UNREADABLE, "broken header"),
    ("absent shard", filed(lambda p: indexed(p, {"a": "model-00002-of-00002.safetensors"})), Code.MODEL_UNREADABLE, "model-00002-of-00002.safetensors, which does not exist"),
    ("index that leads elsewhere", filed(lambda p: indexed(p, {"a": "../one/model.safetensors"})), Code.MODEL_UNREADABLE, "no safetensors file of that directory"),
    ("tensor in two shards", filed(twice), Code.MODEL_UNREADABLE, "stands both in"),
    ("pickled weights", filed(pickled), Code.MODEL_UNREADABLE, "pickled weights"),
    ("no configuration", filed(lambda p: (p / "config.json").unlink()), Code.MODEL_UNREADABLE, "config.json does not exist"),
    ("broken configuration", filed(lambda p: (p / "config.json").write_text("{")), Code.MODEL_UNREADABLE, "config.json"),
    ("adapter as a model", filed(adapter), Code.MODEL_UNREADABLE, "is a LoRA adapter"),
    ("adapter of another base", foreign_adapter, Code.MODEL_UNREADABLE, "A [2, 99]"),
    ("vocabulary with gaps", gappy_union, Code.MODEL_UNREADABLE, "not contiguous"),
    ("no such chat template", lambda h: pair(h) | {"chat_template": "chatlm"}, Code.OPERATION_REFUSED, "chat_template"),
    ("NaN in an input", edited(poisoned), Code.MERGE_FAILED, "model.layers.1.mlp.up_proj.weight in"),
    ("infinity in an input", edited(endless), Code.MERGE_FAILED, "model.norm.weight in"),
    ("overflow", lambda h: pair(h, normalize=False) | {"out_dtype": "float16", "parameters": {"normalize": False}, "models": [{"model": str(h[n]), "parameters": {"weight": 1e6}} for n in ("one", "two")]}, Code.MERGE_FAILED, "though every input is finite"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return {name: write(tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two"))}


@pytest.mark.parametrize(
    ("recipe", "code", "said"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refused(recipe: Callable[[Here], Recipe], code: Code, said: str, here: Here, tmp_path: Path) -> None:
    spec = {"kind": "merge", "recipe": recipe(here), "out": str(tmp_path / "results" / "out"), "proof": False}
    with pytest.raises(LtpError) as refused:
        run(spec, Event(), lambda _: None)
    assert refused.value.code is code and said in refused.value.message, refused.value
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize("place", ["one", "one/inside", ""])
def test_an_output_on_or_around_an_input_is_refused(place: str, here: Here, tmp_path: Path) -> None:
    before = (here["one"] / "model.safetensors").read_bytes()
    with pytest.raises(LtpError, match=r"lies in, on or around the input"):
        run(
            {"kind": "merge", "recipe": pair(here), "out": str(tmp_path / place), "proof": False},
            Event(),
            lambda _: None,
        )
    assert (here["one"] / "model.safetensors").read_bytes() == before


def test_a_full_disk_is_seen_before_the_start(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=9, free=1))
    with pytest.raises(LtpError, match="GB left") as refused:
        run(
            {"kind": "merge", "recipe": pair(here), "out": str(tmp_path / "out"), "proof": False},
            Event(),
            lambda _: None,
        )
    assert refused.value.code is Code.DISK_FULL and not (tmp_path / "out").exists()


def test_faults_are_told_with_line_and_column() -> None:
    text = "merge_method: ties\nmodels:\n  - model: a\n    parameters:\n      densty: 0.5\n  - model: b\n    parameters: {density: 53}\n"
    with pytest.raises(LtpError) as refused:
        parse_merge(text, "x.yaml")
    assert "line 5, column 7: models.0.parameters.densty" in refused.value.message
    assert "line 7, column 18: models.1.parameters.density: density is 53" in refused.value.message
