"""Merges as they are carried out: what is written, that it goes on after a kill, and that threads and order do not show."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors import engine
from ltp.tensors.operate import run
from ltp.tensors.operation import Stopped
from tests.service.surgery.merge_models import linear, write


def merge(recipe: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run({"kind": "merge", "recipe": recipe, "out": str(out), "proof": False} | more, Event(), lambda _: None)


def weights(path: Path) -> dict[str, Any]:
    return {name: t for file in path.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"m{seed}", seed) for seed in range(3)]


def dare(models: list[Path]) -> dict[str, Any]:
    others = [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.5}} for m in models[1:]]
    return {"merge_method": "dare_ties", "base_model": str(models[0]), "models": others, "dtype": "bfloat16"}


def test_a_linear_merge_with_its_lineage_and_card(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "mean"
    answer = merge(linear(*models), out, seed=4)
    theirs = [weights(model) for model in models]
    for name, weight in weights(out).items():
        assert torch.equal(weight, (sum(t[name].float() for t in theirs) / 3).bfloat16()), name
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["digest"] == answer["digest"] and manifest["seed"] == 4 and len(manifest["parents"]) == 3
    card = (out / "README.md").read_text()
    assert card.startswith("---\nbase_model:\n- m0\n- m1\n- m2\nbase_model_relation: merge\n") and str(tmp_path) in card
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 3
    assert (out / "tokenizer.json").read_bytes() == (models[0] / "tokenizer.json").read_bytes()
    assert {path.name for path in out.parent.iterdir()} == {"mean"}


def test_the_same_operation_is_reused_and_another_is_refused(models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = merge(linear(*models), out)
    assert merge(linear(*models), out) == first | {"reused": True}
    with pytest.raises(LtpError, match="exists already") as refused:
        merge(linear(*models[:2]), out)
    assert refused.value.code is ErrorCode.CONFLICT
    # A parent that changed makes another operation, even in a place that the samples do not cover.
    changed = load_file(models[1] / "model.safetensors")
    changed["model.layers.1.mlp.up_proj.weight"][7, 3] += 1
    save_file(changed, models[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LtpError, match="exists already"):
        merge(linear(*models), out)


def test_threads_shards_and_seed(models: list[Path], tmp_path: Path) -> None:
    one = merge(dare(models), tmp_path / "one", threads=1, seed=7)
    many = merge(dare(models), tmp_path / "many", threads=7, seed=7)
    split = merge(dare(models), tmp_path / "split", threads=3, seed=7, max_file_bytes=2000)
    other = merge(dare(models), tmp_path / "other", seed=8)
    assert one["digest"] == many["digest"] == split["digest"] != other["digest"]
    file = "model.safetensors"
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()
    assert (tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()
    index = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    pieces, whole = weights(tmp_path / "split"), weights(tmp_path / "one")
    assert pieces.keys() == whole.keys() and all(torch.equal(pieces[name], whole[name]) for name in whole)
    again = merge(linear(tmp_path / "split", tmp_path / "one"), tmp_path / "again")
    assert again["size_bytes"] > 0 and torch.equal(
        weights(tmp_path / "again")["model.norm.weight"], whole["model.norm.weight"]
    )


def test_layers_are_stacked(models: list[Path], tmp_path: Path) -> None:
    slices = [
        {"sources": [{"model": str(models[0]), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(models[1]), "layer_range": [1, 3], "parameters": {"scale": 2}}]},
    ]
    merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    found, first, second = weights(tmp_path / "out"), weights(models[0]), weights(models[1])
    name = "mlp.up_proj.weight"
    assert torch.equal(found[f"model.layers.1.{name}"], first[f"model.layers.1.{name}"])
    assert torch.equal(found[f"model.layers.3.{name}"], second[f"model.layers.2.{name}"] * 2)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 4


def test_a_union_of_vocabularies(tmp_path: Path) -> None:
    base = write(tmp_path / "base", 0, words=["<unk>", "a", "b"])
    other = write(tmp_path / "other", 1, words=["<unk>", "b", "a", "c"])
    merge(linear(base, other, base_model=str(base), tokenizer_source="union"), tmp_path / "out")
    ours, one, two = (weights(p)["model.embed_tokens.weight"].float() for p in (tmp_path / "out", base, other))
    tokens = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert [(t["content"], t["id"]) for t in tokens["added_tokens"]] == [("c", 3)]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 4
    assert torch.allclose(ours[1], (one[1] + two[2]) / 2, atol=0.02)
    # Only the other knows c: both take its row.
    assert torch.equal(ours[3], two[3])
    with pytest.raises(LtpError, match="different shapes") as refused:
        merge(linear(base, other), tmp_path / "else")
    assert "tokenizer_source" in refused.value.hint


def test_a_tied_and_an_untied_head(tmp_path: Path) -> None:
    tied, untied = write(tmp_path / "tied", 0), write(tmp_path / "untied", 1, tie_word_embeddings=False)
    merge(linear(tied, untied), tmp_path / "out")
    expected = (weights(tied)["model.embed_tokens.weight"].float() + weights(untied)["lm_head.weight"].float()) / 2
    assert torch.equal(weights(tmp_path / "out")["lm_head.weight"], expected.bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_an_adapter_is_extracted_and_merged_in_again(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "base", 0, dtype=torch.float32), write(tmp_path / "tuned", 1, dtype=torch.float32)
    changed = load_file(base / "model.safetensors")
    for name in changed:
        if name.endswith("_proj.weight"):
            out, inner = changed[name].shape
            changed[name] += torch.randn(out, 2) @ torch.randn(2, inner)
    save_file(changed, tuned / "model.safetensors", metadata={"format": "pt"})
    recipe = {"model": str(tuned), "base_model": str(base), "rank": 2}
    run({"kind": "lora", "recipe": recipe, "out": str(tmp_path / "lora")}, Event(), lambda _: None)
    assert max(json.loads((tmp_path / "lora" / "extraction.json").read_text())["relative_error"].values()) < 1e-4
    single = {"merge_method": "passthrough", "models": [{"model": f"{base}+{tmp_path / 'lora'}"}]}
    merge(single, tmp_path / "back")
    found = weights(tmp_path / "back")
    assert all(torch.allclose(found[name], weight, atol=1e-3) for name, weight in changed.items())


def test_a_stop_keeps_what_is_done(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = merge(dare(models), tmp_path / "whole", seed=7)
    monkeypatch.setattr(engine, "_TELL_SECONDS", 0.0)
    stop, written = Event(), []
    original = engine.write_at

    def slow(*arguments: Any) -> None:
        original(*arguments)
        written.append(1)
        if len(written) == 9:
            stop.set()

    monkeypatch.setattr(engine, "write_at", slow)
    spec = {
        "kind": "merge",
        "recipe": dare(models),
        "out": str(tmp_path / "out"),
        "proof": False,
        "seed": 7,
        "threads": 1,
    }
    with pytest.raises(Stopped):
        run(spec, stop, lambda _: None)
    assert not (tmp_path / "out").exists()
    run(spec, Event(), lambda _: None)
    steps = len(weights(tmp_path / "whole"))
    assert len(written) <= steps + 1, "finished weights were written again"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["digest"] == reference["digest"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def bigger(tmp_path: Path) -> list[Path]:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "vocab_size": 8000}
    return [write(tmp_path / f"big{seed}", seed, **sizes) for seed in range(3)]


def _killed(tmp_path: Path, times: int) -> None:
    models, chance = bigger(tmp_path), random.Random(times)
    merge(dare(models), tmp_path / "whole", seed=7)
    expected = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir() if p.name != "README.md"}
    spec = {"kind": "merge", "recipe": dare(models), "out": str(tmp_path / "out" / "x"), "proof": False, "seed": 7}
    for _ in range(times):
        kill_and_resume_once(spec, chance.uniform(0.0, 2.0))
        found = {p.name: p.read_bytes() for p in (tmp_path / "out" / "x").iterdir() if p.name != "README.md"}
        assert found == expected
        for path in (tmp_path / "out" / "x").iterdir():
            path.unlink()
        (tmp_path / "out" / "x").rmdir()


def kill_and_resume_once(spec: dict[str, Any], moment: float) -> None:
    argv = [sys.executable, "-m", "ltp.tensors.operate", "run"]
    for at in (moment, None):
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(json.dumps(spec).encode() + b"\n")
        process.stdin.flush()
        directory, began = Path(spec["out"]).parent, time.monotonic()
        while at is not None and process.poll() is None and not list(directory.glob(".*.partial/*.safetensors")):
            assert time.monotonic() - began < 120
        if at is not None:
            try:
                process.wait(at)
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.wait(300) in {0, -9}, process.stderr.read()
        process.stdin.close()
        process.stderr.close()


def test_killed_at_random_moments_the_result_is_the_same(tmp_path: Path) -> None:
    _killed(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_fifty_random_moments_the_result_is_the_same(tmp_path: Path) -> None:
    _killed(tmp_path, 50)


def test_only_one_writes_an_output(models: list[Path], tmp_path: Path) -> None:
    from ltp.tensors.operation import _only_writer

    with _only_writer(tmp_path / "out", 0.0), pytest.raises(LtpError, match="Another operation writes") as refused:
        merge(linear(*models), tmp_path / "out")
    assert refused.value.code is ErrorCode.CONFLICT
    merge(linear(*models), tmp_path / "out")
