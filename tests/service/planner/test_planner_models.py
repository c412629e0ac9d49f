"""Model directories as they go wrong: each is refused with the file that is at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import parameters
from ltp.model_files import INDEX, read_model

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


# Embedding 32*8; q and o 8*8, k and v 4*8; three projections 16*8; three norms of 8.
WEIGHTS = 256 + 2 * 64 + 2 * 32 + 3 * 128 + 3 * 8


def safetensors(values: int = WEIGHTS) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4 * values)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(safetensors())
    return path


def refused(path: Path) -> LtpError:
    with pytest.raises(LtpError) as caught:
        read_model(path)
    return caught.value


def test_a_whole_model_is_read(model: Path) -> None:
    assert parameters(read_model(model)) == WEIGHTS
    # A tied head that is stored as well.
    (model / "model.safetensors").write_bytes(safetensors(WEIGHTS + 32 * 8))
    assert parameters(read_model(model)) == WEIGHTS


def test_weights_of_another_model_are_refused_by_their_file(model: Path) -> None:
    (model / "model.safetensors").write_bytes(safetensors(WEIGHTS - 8))
    error = refused(model)
    assert f"config.json describes 856 parameters, and {model / 'model.safetensors'} holds 848" in error.message
    # Split over two files, it is the index that is named.
    (model / "model.safetensors").rename(model / "a.safetensors")
    (model / "b.safetensors").write_bytes(safetensors(16))
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    assert f"{model / INDEX} holds 864" in refused(model).message


def test_a_sharded_model_is_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert read_model(model).layers == 1
    (model / "model-00001-of-00001.safetensors").unlink()
    assert "model-00001-of-00001.safetensors, which is not there" in refused(model).message


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    said = {"Qwen/Qwen2.5-0.5B": "does not exist", "file": "is not a directory", "empty": "has no config.json"}
    for name, what in said.items():
        error = refused(tmp_path / name)
        assert error.code is ErrorCode.MODEL_NOT_FOUND
        assert f"{tmp_path / name} {what}" in error.message


def _without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def _holding(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes(content)


def _pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_holding("config.json", b"{"), "config.json is broken JSON"),
        (_holding("config.json", b"\xff\xfe"), "config.json is broken JSON"),
        (_holding("config.json", b"[1]"), "holds no JSON object"),
        (_holding("config.json", b"{}"), "no model_type"),
        (_without("tokenizer.json"), "has no tokenizer"),
        (_without("model.safetensors"), "has no safetensors weights"),
        (_pickled, r"pickled weights alone \(pytorch_model.bin\)"),
        (_holding("model.safetensors", b""), "cut off in its header"),
        (_holding("model.safetensors", safetensors()[:20]), "cut off in its header"),
        (_holding("model.safetensors", safetensors()[:-1]), "is cut off"),
        (_holding("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "no safetensors file"),
        (_holding(INDEX, b"{}"), "has no weight_map"),
        (_holding(INDEX, b"{"), "broken JSON"),
        (
            _holding("tokenizer.json", b'{"model": {"vocab": {"a": 0, "b": 32}}}'),
            "vocab_size is 32, and its tokenizer has 33",
        ),
        (_holding("tokenizer.json", b'{"added_tokens": [{"id": 99}]}'), "vocab_size is 32, and its tokenizer has 100"),
    ],
)
def test_unreadable_models(model: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(model)
    with pytest.raises(LtpError, match=said) as caught:
        read_model(model)
    assert caught.value.code is ErrorCode.MODEL_UNREADABLE
