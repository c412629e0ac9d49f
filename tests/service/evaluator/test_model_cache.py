"""Warm servers on a real engine: used again, shared by adapters, ended by idleness, by the budget, and for other work."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.evaluation_spec import LocalModel
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.secrets import Secrets
from services.evaluator.endpoint import Endpoint
from services.evaluator.fingerprint import fingerprint_of
from services.evaluator.models import Models, Served
from services.evaluator.samples import Answer, Message
from services.evaluator.servers import ModelCache, predicted_bytes
from services.evaluator.settings import EvaluatorSettings
from tests.conftest import until
from tests.tiny_model import write_tiny_adapter

pytestmark = pytest.mark.training
# Models of our own need no key.
NO_SECRETS = Secrets(cast("AsyncEngine", None), Path("keyring"))
HERE = Placement(host_id="here", device_kind="cpu", device_indexes=[0])


@pytest.fixture
def adapters(tiny_model: Path, tmp_path: Path) -> list[Path]:
    """Two LoRA adapters of the tiny model that make it say other things."""
    made = [tmp_path / "adapter1", tmp_path / "adapter2"]
    for seed, path in enumerate(made):
        write_tiny_adapter(tiny_model, path, seed)
    return made


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ModelCache]:
    settings = EvaluatorSettings(data_dir=tmp_path / "data", evaluator_concurrency=4)
    cache = ModelCache(settings)
    yield cache
    await cache.close()


async def said(endpoint: Endpoint, text: str = "2 + 2") -> str:
    answer = await endpoint.chat([Message(role="user", content=text)], {"max_tokens": 12, "temperature": 0})
    assert isinstance(answer, Answer), answer
    return answer.text


async def test_adapters_share_one_server_with_their_base(
    cache: ModelCache, tiny_model: Path, adapters: list[Path]
) -> None:
    models = Models(cache.settings, cache, NO_SECRETS)
    opened = models.opener(HERE)
    async with opened(LocalModel(path=str(tiny_model))) as base:
        plain = await said(base)
        pids = cache.warm()
        # An adapter's directory alone says which model it belongs to.
        named, alone = LocalModel(path=str(tiny_model), adapter=str(adapters[0])), LocalModel(path=str(adapters[1]))
        async with opened(named) as first, opened(alone) as second:
            answers = await asyncio.gather(said(first), said(second), said(base))
            assert len({*answers}) == 3 and answers[2] == plain
            # Together in one batch they answer as alone.
            assert [await said(one) for one in (first, second, base)] == answers
            assert len({endpoint.address.model for endpoint in (first, second, base)}) == 3
    assert cache.warm() == pids and len(pids) == 1
    strange = adapters[0].with_name("strange")
    shutil.copytree(adapters[0], strange)
    tensors = pytest.importorskip("safetensors.torch")
    weights = tensors.load_file(strange / "adapter_model.safetensors")
    tensors.save_file(
        {name: w[:, :8].contiguous() for name, w in weights.items()}, strange / "adapter_model.safetensors"
    )
    with pytest.raises(LtpError, match="cannot be served on this model") as caught:
        async with opened(LocalModel(path=str(tiny_model), adapter=str(strange))):
            pass
    assert caught.value.code is ErrorCode.MODEL_UNREADABLE
    async with opened(LocalModel(path=str(tiny_model))) as base:
        assert await said(base) == plain


async def test_the_budget_and_idleness_end_servers_and_a_dead_one_is_replaced(
    cache: ModelCache, tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "generation_config.json").write_text("{}")  # another fingerprint
    need = predicted_bytes(tiny_model, cache.settings.evaluator_concurrency)
    cache.settings.evaluator_memory_bytes = int(1.5 * need)
    opened = Models(cache.settings, cache, NO_SECRETS).opener(HERE)
    async with opened(LocalModel(path=str(tiny_model))):
        pid = cache.warm()[fingerprint_of(tiny_model)]
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert 0.3 * need < memory < need
        server = next(iter(cache._servers.values()))[0].server
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not server.running)
    async with opened(LocalModel(path=str(tiny_model))) as again:
        await said(again)
        assert cache.warm()[fingerprint_of(tiny_model)] != pid
    async with opened(LocalModel(path=str(other))):
        assert list(cache.warm()) == [fingerprint_of(other)], "the first had to make room"
        await cache.leave("cpu", [0])
        assert cache.warm(), "a server that is used stays"
    cache.settings.evaluator_idle_seconds = 0.0
    loop = asyncio.create_task(cache.run())
    await until(lambda: not cache.warm())
    loop.cancel()


@pytest.mark.parametrize(
    ("files", "said_of_it"),
    [
        ({}, "cannot be read"),
        ({"adapter_config.json": '{"peft_type": "IA3"}'}, "type IA3"),
        (
            {"adapter_config.json": '{"peft_type": "LORA", "r": 8}', "adapter_model.bin": ""},
            "adapter_model.safetensors",
        ),
        ({"adapter_config.json": '{"r": "many"}', "adapter_model.safetensors": ""}, "rank"),
    ],
)
def test_what_is_no_adapter_is_said(tiny_model: Path, tmp_path: Path, files: dict[str, str], said_of_it: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LtpError, match=said_of_it):
        Served.of(LocalModel(path=str(tiny_model), adapter=str(tmp_path)))
