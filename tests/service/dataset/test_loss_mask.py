"""What verl would train on, asked of verl itself in a process of its own, and the gate that judges by it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source
from services.dataset.gate import Gate
from services.dataset.ingest import SourceFile, freeze
from services.dataset.masks import MaskProcess, Template, masked, sample

pytestmark = pytest.mark.training


def write_template(model: Path, template: str) -> Path:
    (model / "chat_template.jinja").write_text(template)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("verl")
    from tests.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest_asyncio.fixture
async def masks() -> AsyncIterator[MaskProcess]:
    process = MaskProcess(sys.executable)
    yield process
    await process.stop()


def added(folder: Path, rows: list[dict[str, Any]]) -> Source:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frozen = freeze(
        [SourceFile(folder / "a.jsonl", "a.jsonl")], name="x", holdout=0, versions_dir=folder / "v", owner="o"
    )
    return Source("x", frozen.version, folder / "v" / frozen.version)


def recipe(model: Path, max_length: int = 64, algorithm: str = "sft") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "algorithm": algorithm,
            "model": {"path": str(model)},
            "dataset": {"name": "x"},
            "training": {"steps": 1, "batch_size": 1, "learning_rate": 0.1, "max_length": max_length},
            **({"reinforcement": {}} if algorithm == "grpo" else {}),
        }
    )


async def test_mask_gate_and_refusals(tmp_path: Path, model: Path, masks: MaskProcess) -> None:
    source = added(tmp_path, [{"prompt": f"{n}+1?", "response": str(n + 1)} for n in range(30)])
    rows = sample(source, None, 3)
    found = await masked(masks, rows, Template(str(model), 64), detail=True, seconds=120)
    for row, messages in zip(found, rows.column("messages").to_pylist(), strict=True):
        trained = "".join(token["text"] for token in row["detail"] if token["trained"])
        assert trained == f"{messages[-1]['content']}<|im_end|>\n"
        assert row["trained"] == row["kept_trained"] == sum(token["trained"] for token in row["detail"])
    cut = await masked(masks, rows, Template(str(model), 10), detail=True, seconds=120)
    assert all(sum(token["cut"] for token in row["detail"]) == row["tokens"] - 10 for row in cut)

    gate = Gate(masks, rows=8)
    assert (await gate.judge(recipe(model), source)).found["sampled_rows"] == 8
    assert not (await gate.judge(recipe(model, algorithm="grpo"), source)).checked
    for said, template, limit in (
        ("max_length 10 cuts every answer off", None, 10),
        (
            "the mask is all one",
            "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}",
            64,
        ),
        ("verl cannot use this tokenizer and template", "{{ raise_exception('no') }}", 64),
    ):
        other = model if template is None else write_template(copy_of(model, tmp_path / said[:6]), template)
        with pytest.raises(LtpError, match=said) as caught:
            await gate.judge(recipe(other, limit), source)
        assert caught.value.code is ErrorCode.DATASET_MASK_EMPTY
    texts = added(tmp_path, [{"text": "once"}, {"text": "upon"}])
    with pytest.raises(LtpError, match="has messages"):
        await gate.judge(recipe(model), texts)


def copy_of(model: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(model, target)
    return target
