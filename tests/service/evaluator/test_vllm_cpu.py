"""The real vLLM on the CPU, in an environment of its own: `make vllm-cpu`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.evaluator.endpoint import Endpoint
from services.evaluator.inference import InferenceServer
from services.evaluator.lanes import Address
from services.evaluator.samples import Answer, Message
from tests.tiny_model import write_tiny_adapter, write_tiny_model

PYTHON = os.environ.get("LTP_EVALUATOR_VLLM_PYTHON")
pytestmark = [
    pytest.mark.vllm_cpu,
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="LTP_EVALUATOR_VLLM_PYTHON names no environment with vllm-cpu"),
]


@pytest.mark.parametrize("template", [True, False])
async def test_vllm_serves_a_model_with_and_without_a_template(tmp_path: Path, template: bool) -> None:
    model = tmp_path / "model"
    write_tiny_model(model, heads=(3, 1))
    if not template:
        (model / "chat_template.jinja").unlink()
    log = tmp_path / "server.log"
    async with (
        InferenceServer(
            model, log, vllm_python=Path(PYTHON or ""), start_seconds=900, adapter_rank=4 if template else 0
        ) as server,
        Endpoint(Address(f"{server.url}/v1", server.model_name, own=True)) as endpoint,
    ):
        prompt = [Message(role="user", content="2 + 2")]
        answer = await endpoint.chat(prompt, {"max_tokens": 8, "temperature": 0})
        tokens = await endpoint.post("/tokenize", {"prompt": "2 + 2", "add_special_tokens": False})
        if template:
            adapter = tmp_path / "adapter"
            write_tiny_adapter(model, adapter)
            name = await server.adapt(adapter, "sha256:one")
            async with Endpoint(Address(f"{server.url}/v1", name, own=True)) as adapted:
                other = await adapted.chat(prompt, {"max_tokens": 8, "temperature": 0})
            assert isinstance(other, Answer) and isinstance(answer, Answer) and other.text != answer.text
    assert isinstance(answer, Answer), answer
    assert answer.completion_tokens is not None and 0 < answer.completion_tokens <= 8
    assert isinstance(tokens, tuple) and tokens[0]["count"] > 0


async def test_a_model_that_vllm_cannot_answer_with_gets_our_own_server(tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_tiny_model(model)  # heads 24 wide: vLLM's server starts, and its engine dies of the first prompt
    async with (
        InferenceServer(model, tmp_path / "server.log", vllm_python=Path(PYTHON or "")) as server,
        Endpoint(Address(f"{server.url}/v1", server.model_name, own=True)) as endpoint,
    ):
        answer = await endpoint.chat([Message(role="user", content="2 + 2")], {"max_tokens": 8, "temperature": 0})
    assert isinstance(answer, Answer), answer
