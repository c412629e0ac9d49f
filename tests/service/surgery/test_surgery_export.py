"""Exports of checkpoints that torch itself sharded, and refusals of those that are damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.fsdp_export import INDEX, export
from ltp.tensors.shards import same_bits

pytestmark = pytest.mark.training
SCRIPT = Path(__file__).with_name("write_shards.py")


KINDS = ("1-tied", "2-untied", "3-tied")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for each kind: world size and whether the output head is tied."""
    root = tmp_path_factory.mktemp("checkpoints")
    subprocess.run(
        [sys.executable, str(SCRIPT), str(root), *KINDS, "2-lora"], check=True, capture_output=True, timeout=300
    )
    return root


@pytest.fixture
def checkpoint(checkpoints: Path, tmp_path: Path) -> Path:
    """A private copy of two uneven shards, to be damaged."""
    return Path(shutil.copytree(checkpoints / "2-untied", tmp_path / "checkpoint"))


def refusal(checkpoint: Path, out: Path) -> LtpError:
    with pytest.raises(LtpError) as caught:
        export(checkpoint, out)
    assert not out.exists(), "a refused export leaves nothing behind"
    assert not list(out.parent.glob(".export-*"))
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_export_is_exact_and_transformers_loads_it(checkpoints: Path, kind: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    answer = export(checkpoints / kind, out)
    reference = load_file(checkpoints / kind / "reference.safetensors")
    written = load_file(out / "model.safetensors")
    assert written.keys() == reference.keys()
    assert all(same_bits(written[name], reference[name]) for name in reference)
    assert answer.tensors == len(reference)
    assert answer.size_bytes == sum(path.stat().st_size for path in out.iterdir())

    model, report = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert same_bits(model.model.embed_tokens.weight.detach(), reference["model.embed_tokens.weight"])
    assert len(AutoTokenizer.from_pretrained(out)) == 33
    names = {path.name for path in out.iterdir()}
    assert {"generation_config.json", "chat_template.jinja"} <= names and "evil.py" not in names


def test_types_and_files_of_the_export(checkpoint: Path, tmp_path: Path) -> None:
    whole, halved = export(checkpoint, tmp_path / "whole"), export(checkpoint, tmp_path / "half", dtype="bfloat16")
    split = export(checkpoint, tmp_path / "split", max_file_bytes=4000)
    assert split.weights_sha256 == whole.weights_sha256 != halved.weights_sha256
    reference = load_file(checkpoint / "reference.safetensors")
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(same_bits(half[name], weight.to(torch.bfloat16)) for name, weight in reference.items())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    index = json.loads((tmp_path / "split" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in reference.values())
    assert len(set(index["weight_map"].values())) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "split", dtype="auto")
    assert all(same_bits(weight, reference[name]) for name, weight in model.state_dict().items())


def test_a_repeated_export_is_harmless_and_a_strange_directory_stays(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(checkpoint, out) == export(checkpoint, out)
    weights = load_file(out / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LtpError, match=r"exists and is not this export: model\.norm\.weight"):
        export(checkpoint, out)
    assert (out / "model.safetensors").exists()


def _shard(change: Callable[[dict[str, Any]], object], rank: int = 1) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / f"model_world_size_2_rank_{rank}.pt"
        shard = torch.load(path, weights_only=True)
        change(shard)
        torch.save(shard, path)

    return damage


def _both(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda checkpoint: [_shard(change, rank)(checkpoint) for rank in (0, 1)] and None


def _without(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def _cut(checkpoint: Path) -> None:
    path = checkpoint / "model_world_size_2_rank_0.pt"
    path.write_bytes(path.read_bytes()[:-100])


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("/tmp/ltp-this-must-not-appear",))


def _diverged(shard: dict[str, Any]) -> None:
    shard["model.norm.weight"]._local_tensor[0] = float("nan")


def _retied(checkpoint: Path) -> None:
    path = checkpoint / "huggingface" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without("model_world_size_2_rank_1.pt"), "lacks 1 of 2 shards: model_world_size_2_rank_1.pt"),
        (_without("fsdp_config.json"), "fsdp_config.json does not exist"),
        (_without("huggingface/config.json"), "config.json does not exist"),
        (_without("huggingface/tokenizer.json"), "holds no tokenizer"),
        (lambda path: (path / "lora_train_meta.json").write_text("{}"), "rank None and alpha None"),
        (_both(lambda shard: shard.update({"a.lora_A.default.weight": torch.zeros(1)})), "does not exist"),
        (_cut, "rank_0.pt cannot be read"),
        (_shard(lambda shard: shard.update(code=_Code())), "rank_1.pt cannot be read"),
        (_shard(lambda shard: shard.pop("model.norm.weight")), "rank_1.pt holds other weights"),
        (_both(lambda shard: shard.pop("model.norm.weight")), "lacks model.norm.weight"),
        (_both(lambda shard: shard.update(score=torch.zeros(1))), "has score, which the model has not"),
        (_shard(_diverged), "model.norm.weight holds NaN"),
        (_retied, "but the two differ"),
    ],
)  # fmt: skip
def test_damaged_checkpoints(checkpoint: Path, damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    damage(checkpoint)
    error = refusal(checkpoint, tmp_path / "out")
    assert error.code is ErrorCode.EXPORT_FAILED and said in error.message, error.message
    assert not Path("/tmp/ltp-this-must-not-appear").exists()


def test_the_command_answers_in_json(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.surgery.export", str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    assert answer["path"] == str(tmp_path / "out") and len(answer["weights_sha256"]) == 64 and done.stderr == ""
    shutil.rmtree(checkpoint)
    failed = subprocess.run([*command[:-1], str(tmp_path / "other")], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1 and json.loads(failed.stderr)["code"] == "export_failed" and failed.stdout == ""


def test_adapters_are_merged_as_peft_merges_them_and_kept_beside(checkpoints: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    source, out = checkpoints / "2-lora", tmp_path / "out"
    answer = export(source, out)
    assert export(source, out) == answer  # an export that is there already is verified and kept
    wanted = load_file(source / "reference.safetensors")
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for name, value in merged.state_dict().items():
        assert torch.allclose(value, wanted[name], atol=1e-5), name
    base = AutoModelForCausalLM.from_pretrained(source / "base", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, out / "adapter")
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-4)
        with adapted.disable_adapter():
            assert not torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-1)


def test_an_unknown_alpha_is_not_guessed(checkpoints: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoints / "2-lora", tmp_path / "checkpoint"))
    (source / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 0}')
    error = refusal(source, tmp_path / "out")
    assert error.code is ErrorCode.EXPORT_FAILED
    assert "alpha 0" in error.message
