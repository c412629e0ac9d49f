"""Exports of checkpoints that megatron-core itself wrote (`write_megatron.py`): four ranks of a Qwen2, one of a Qwen3."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.shards import same_bits
from tests.service.surgery.merge_models import carry_out, tokenizer

pytestmark = pytest.mark.training
ARCHIVE = Path(__file__).parents[2] / "data" / "megatron.tar.gz"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "checkpoints", filter="data")
    for kind in ("qwen2", "qwen3"):
        words = tokenizer([f"w{n}" for n in range(37)])
        (tmp_path / "checkpoints" / kind / "model" / "huggingface" / "tokenizer.json").write_text(json.dumps(words))
    return tmp_path / "checkpoints"


def refusal(checkpoint: Path, out: Path) -> str:
    with pytest.raises(LtpError) as caught:
        carry_out("export", {"model": str(checkpoint)}, out)
    assert not out.exists(), "a refused export leaves nothing behind"
    assert caught.value.code == ErrorCode.EXPORT_FAILED
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_every_weight_is_what_the_ranks_held(checkpoints: Path, kind: str, tmp_path: Path) -> None:
    carry_out("export", {"model": str(checkpoints / kind)}, tmp_path / "out")
    written = {
        name: value for path in (tmp_path / "out").glob("*.safetensors") for name, value in load_file(path).items()
    }
    reference = load_file(checkpoints / kind / "reference.safetensors")
    assert written.keys() == reference.keys()
    assert [name for name, value in reference.items() if not same_bits(value, written[name])] == []


def test_transformers_computes_what_megatron_computed(checkpoints: Path, tmp_path: Path) -> None:
    carry_out("export", {"model": str(checkpoints / "qwen3")}, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.arange(20)[None] % 37).logits
    expected = load_file(checkpoints / "qwen3" / "logits.safetensors")["logits"].reshape(logits.shape)
    assert torch.allclose(logits, expected, atol=1e-4), (logits - expected).abs().max()


def test_a_step_that_lacks_a_file_or_its_end_is_named(checkpoints: Path, tmp_path: Path) -> None:
    step = checkpoints / "qwen2"
    cut = step / "model" / "dist_ckpt" / "__2_1.distcp"
    cut.write_bytes(cut.read_bytes()[:9000])
    assert "__2_1.distcp" in refusal(step, tmp_path / "out")
    cut.unlink()
    assert "__2_1.distcp does not exist" in refusal(step, tmp_path / "out")
    (step / "model" / "dist_ckpt" / ".metadata").unlink()
    assert "the save did not end" in refusal(step, tmp_path / "out")


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


def test_an_index_that_would_run_code_runs_none(checkpoints: Path, tmp_path: Path) -> None:
    step, mark = checkpoints / "qwen3", tmp_path / "ran"
    (step / "model" / "dist_ckpt" / ".metadata").write_bytes(pickle.dumps(_Hostile(mark)))
    assert "cannot be read" in refusal(step, tmp_path / "out")
    assert not mark.exists()


def test_a_configuration_of_another_model_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    path = checkpoints / "qwen3" / "model" / "huggingface" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 5}))
    assert "5" in refusal(checkpoints / "qwen3", tmp_path / "out")
    path.write_text(json.dumps(config | {"num_key_value_heads": 4}))
    assert "has shape" in refusal(checkpoints / "qwen3", tmp_path / "other")


def test_weights_that_verl_saved_for_hugging_face_are_taken(checkpoints: Path, tmp_path: Path) -> None:
    carry_out("export", {"model": str(checkpoints / "qwen3")}, tmp_path / "whole")
    step = tmp_path / "step" / "model"
    shutil.copytree(tmp_path / "whole", step / "huggingface")
    report = carry_out("export", {"model": str(tmp_path / "step")}, tmp_path / "again")["report"]
    assert report["tensors"] == len(load_file(checkpoints / "qwen3" / "reference.safetensors"))
