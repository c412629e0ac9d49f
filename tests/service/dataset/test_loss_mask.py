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
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe.verl_0_9 import launch_spec
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


TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if enable_thinking == false and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments.city }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def weather(city: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    call = {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        "messages": [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "rain", "name": "weather"},
            {"role": "assistant", "content": f"It rains in {city}."},
        ],
    }


async def test_tools_reach_the_template_and_the_mask_is_the_jobs_own(
    tmp_path: Path, model: Path, masks: MaskProcess
) -> None:
    tools = write_template(copy_of(model, tmp_path / "tools"), TOOL_TEMPLATE)
    plain = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    source = added(tmp_path, [weather("Ulm"), weather("Kiel"), plain])
    rows = sample(source, None, 3)
    found = await masked(masks, rows, Template(str(tools), 512), detail=True, seconds=120)
    said = {}
    for row, messages in zip(found, rows.column("messages").to_pylist(), strict=True):
        whole = "".join(token["text"] for token in row["detail"])
        trained = "".join(token["text"] for token in row["detail"] if token["trained"])
        said[messages[0]["content"]] = (whole, trained)
    whole, trained = said["Weather in Ulm?"]
    assert '<|im_start|>tools\n[{"' in whole and '"name": "weather"' in whole
    assert trained == "<call>weather Ulm</call><|im_end|>\nIt rains in Ulm.<|im_end|>\n"
    assert "tools" not in said["Hi"][0]

    # The same rows through the trainer's own composition of the very overrides that a job is started with.
    trained_on = jobs_dataset(recipe(tools, 512), tools, source.directory / "train.parquet")
    by_ids = {
        tuple(token["id"] for token in row["detail"]): [token["trained"] for token in row["detail"]] for row in found
    }
    assert len(trained_on) == 3
    for item in (trained_on[place] for place in range(3)):
        assert by_ids[tuple(item["input_ids"].tolist())] == [bool(m) for m in item["loss_mask"].tolist()]


def jobs_dataset(asked: Recipe, model: Path, file: Path) -> Any:
    """The dataset that the training process of a job would build."""
    from hydra import compose, initialize_config_module
    from verl.trainer.sft_trainer import create_sft_dataset
    from verl.utils import hf_tokenizer

    plan = Plan(
        device_kind="cpu", devices=1, micro_batch_size=1, gradient_checkpointing=False, parameters=1, memory_bytes=1,
        memory_upper_bytes=1, device_memory_bytes=1, memory_components={},
    )  # fmt: skip
    spec = launch_spec(
        asked, plan, python="python", run_dir=file.parent / "run", model_path=model, train_file=file,
        validation_file=None, train_rows=3, device_indexes=[],
    )  # fmt: skip
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", [a for a in spec.argv[3:] if not a.startswith("hydra.")])
    return create_sft_dataset(config.data.train_files, config.data, hf_tokenizer(str(model)), None)


async def test_thinking_and_rows_that_verl_refuses(tmp_path: Path, model: Path, masks: MaskProcess) -> None:
    tools = write_template(copy_of(model, tmp_path / "tools"), TOOL_TEMPLATE)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    source = added(tmp_path, [{"messages": talk, "enable_thinking": False}, weather("Ulm")])
    rows = sample(source, None, 2)
    found = await masked(masks, rows, Template(str(tools), 512), detail=True, seconds=120)
    said = ["".join(token["text"] for token in row["detail"]) for row in found]
    assert ["<think></think>Hello" in text for text in said] == ["Hi" in text for text in said]

    asks = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    strict = asks + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    other = write_template(copy_of(model, tmp_path / "strict"), strict)
    with pytest.raises(LtpError, match="verl would stop at 1 rows") as caught:
        await Gate(masks, rows=8).judge(recipe(other, 512), source)
    assert caught.value.code is ErrorCode.DATASET_ROW_INVALID and "no tools here" in caught.value.message


def copy_of(model: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(model, target)
    return target
