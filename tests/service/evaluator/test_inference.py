"""The client side: many prompts in, answers in order out, and no server left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.inference import Completion, InferenceServer, Message

pytestmark = [pytest.mark.training, pytest.mark.asyncio(loop_scope="session")]


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


async def test_answers_come_in_order(server: InferenceServer) -> None:
    prompts = [user(text * 3) for text in "abcdefghij"]
    together = await server.complete(prompts, max_new_tokens=6, concurrency=10)
    alone = await server.complete(prompts, max_new_tokens=6, concurrency=1)
    assert together == alone
    assert all(completion.finish_reason in ("stop", "length") for completion in together)


async def test_one_bad_prompt_costs_only_itself(server: InferenceServer) -> None:
    good, bad = await server.complete([user("hi"), user("long" * 100)], max_new_tokens=4)
    assert good.error is None
    assert bad == Completion(error=bad.error)
    assert bad.error is not None and "context" in bad.error


async def test_no_prompts_no_answers(server: InferenceServer) -> None:
    assert await server.complete([], max_new_tokens=4) == []


async def test_a_model_that_is_none_fails_with_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(LtpError, match="exit code") as caught:
        async with InferenceServer(tmp_path, log):
            pass
    assert caught.value.code == ErrorCode.INFERENCE_SERVER_FAILED
    assert "no config.json" in caught.value.hint
    assert str(log) in caught.value.hint


async def test_a_server_that_is_late_is_ended(tiny_model: Path, tmp_path: Path) -> None:
    late = InferenceServer(tiny_model, tmp_path / "server.log", start_seconds=0.0)
    with pytest.raises(LtpError, match="not ready after 0 seconds"):
        async with late:
            pass
    assert not late.running


async def test_a_server_that_dies_is_an_error_not_a_list_of_errors(tiny_model: Path, tmp_path: Path) -> None:
    async with InferenceServer(tiny_model, tmp_path / "server.log", threads=1) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(LtpError, match="stopped answering") as caught:
            await server.complete([user("hi")], max_new_tokens=4)
    assert caught.value.code == ErrorCode.INFERENCE_SERVER_FAILED


async def test_the_server_dies_with_its_parent(tiny_model: Path, tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from services.evaluator.inference import InferenceServer
async def main():
    server = InferenceServer(Path({str(tiny_model)!r}), Path({str(tmp_path / "log")!r}), threads=1)
    await server.__aenter__()
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    parent = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=120)
    orphan = int(parent.stdout)
    assert parent.returncode == -signal.SIGKILL
    # pidfd of a process that is gone cannot be had; of one that is dying it becomes readable.
    try:
        descriptor = os.pidfd_open(orphan)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0], "the server outlived its parent"
    finally:
        os.close(descriptor)


async def test_neither_client_nor_policy_imports_torch() -> None:
    program = (
        "import sys, services.evaluator.inference, services.evaluator.policy, services.evaluator.rows; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
