"""One door to inference: starts a model server as a child process, asks it many prompts, and stops it. No torch here."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from ltp.core.errors import ErrorCode, LtpError
from ltp.model_files import read_config
from services.evaluator.samples import Message
from services.evaluator.serve.chatml import CHATML, has_template

_LOG_LINES = 15
_PR_SET_PDEATHSIG = 1
_ANY_RANK = 1 << 30
# vllm 0.32, v1/attention/backends/cpu_attn.py
_VLLM_CPU_HEADS = frozenset({32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512})
_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
# Loaded here, because a child between fork and exec may not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt: text with a finish reason, or an error and neither."""

    text: str = ""
    finish_reason: str | None = None
    error: str | None = None


class InferenceServer:
    """A model server that lives as long as the `async with` block, and never longer than this process.

    With vLLM at hand (installed here, or in the environment of `vllm_python`) it is vLLM's server, else the platform's own
    (`services.evaluator.serve`); both speak OpenAI's API. Raises LtpError INFERENCE_SERVER_FAILED, with the end of the server's log, when it does not become
    ready within `start_seconds` or ends while it is needed.
    """

    def __init__(
        self,
        model: Path,
        log: Path,
        *,
        device_kind: Literal["cpu", "gpu"] = "cpu",
        device_indexes: Sequence[int] = (),
        threads: int | None = None,
        vllm_python: Path | None = None,
        start_seconds: float = 300.0,
        request_seconds: float = 600.0,
        adapter_rank: int = 0,
    ) -> None:
        self.model_name = "evaluated"
        self.url = ""
        self._model, self._log = model, log
        self._device_kind, self._device_indexes, self._threads = device_kind, device_indexes, threads
        self._python = vllm_python or (Path(sys.executable) if find_spec("vllm") is not None else None)
        if device_kind == "cpu" and not _vllm_answers_on_cpu(model):
            self._python = None
        self._start_seconds, self._request_seconds = start_seconds, request_seconds
        # The highest rank of a LoRA adapter that can be put on top: our own server takes any, vLLM what it was told.
        self.takes_adapters = _ANY_RANK if self._python is None else _room_for(adapter_rank)
        self._adapters = dict[str, str]()
        self._adapting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv(port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # vLLM has children of its own: stopping means the whole group
                preexec_fn=_die_with_parent,
            )
        # trust_env=False: a proxy in the environment must not see loopback requests.
        self._client = httpx.AsyncClient(base_url=self.url, timeout=self._request_seconds, trust_env=False)
        try:
            await self._until_ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def adapt(self, path: Path, mark: str) -> str:
        """Serve a LoRA adapter beside the model, once for each `mark`; the name to ask it by. Raises MODEL_UNREADABLE."""
        assert self._client is not None, "use InferenceServer as an async context manager"
        async with self._adapting:
            if mark not in self._adapters:
                name = f"{self.model_name}+{mark.rpartition(':')[2][:16]}"
                body = {"lora_name": name, "lora_path": str(path)}
                try:
                    response = await self._client.post("/v1/load_lora_adapter", json=body)
                except httpx.HTTPError as error:
                    raise self._failed(f"The inference server stopped while it read {path}: {error}") from error
                if response.is_error:
                    message = f"The adapter {path} cannot be served on this model: {response.text[:500]}"
                    raise LtpError(ErrorCode.MODEL_UNREADABLE, message, "Name the base that it was trained on.")
                self._adapters[mark] = name
        return self._adapters[mark]

    @property
    def pid(self) -> int:
        """Process id of the server, also the id of its process group."""
        assert self._process is not None, "use InferenceServer as an async context manager"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.returncode is None

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, concurrency: int = 32
    ) -> list[Completion]:
        """Answer every prompt greedily, in the order given. A prompt that fails yields an error, not an exception."""
        gate = asyncio.Semaphore(concurrency)

        async def one(prompt: Sequence[Message]) -> Completion:
            async with gate:
                return await self._ask(prompt, max_new_tokens)

        completions = await asyncio.gather(*(one(prompt) for prompt in prompts))
        # One refused prompt is the prompt's fault; a server that no longer answers is everybody's.
        if any(completion.error for completion in completions) and not await self._healthy(30.0):
            raise self._failed("The inference server stopped answering.")
        return completions

    async def _ask(self, prompt: Sequence[Message], max_new_tokens: int) -> Completion:
        assert self._client is not None, "use InferenceServer as an async context manager"
        body = {"model": self.model_name, "messages": list(prompt), "max_tokens": max_new_tokens, "temperature": 0}
        try:
            response = await self._client.post("/v1/chat/completions", json=body)
            if response.is_error:
                return Completion(error=f"HTTP {response.status_code}: {response.text[:500]}")
            choice = response.json()["choices"][0]
            return Completion(text=choice["message"]["content"] or "", finish_reason=choice["finish_reason"])
        except httpx.HTTPError as error:
            return Completion(error=f"{type(error).__name__}: {error}")
        except (ValueError, LookupError, TypeError) as error:
            return Completion(error=f"malformed answer: {error!r}")

    def _argv(self, port: int) -> list[str]:
        place = ("--model", str(self._model), "--host", "127.0.0.1", "--port", str(port))
        if self._python is None:
            return [sys.executable, "-m", "services.evaluator.serve", "--name", self.model_name, *place]
        # Not `vllm serve`: vllm-cpu is installed under another name, which that command does not find.
        vllm = [str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", self.model_name]
        if self._device_kind == "cpu":
            vllm += ["--enforce-eager"]
        if not has_template(self._model):
            vllm += ["--chat-template", CHATML]
        if self.takes_adapters:
            vllm += ["--enable-lora", "--max-lora-rank", str(self.takes_adapters), "--max-loras", "2"]
            vllm += ["--max-cpu-loras", "8"]
        return [*vllm, *place]

    def _environment(self) -> dict[str, str]:
        # The platform's own settings hold secrets that a model server has no use for.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LTP_")}
        if self._python is not None and self._python != Path(sys.executable):
            # Another environment: what this one imports is not for it.
            environment.pop("PYTHONPATH", None)
        # The model is a directory: nothing may be fetched in its place.
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # vLLM takes FlashInfer's sampler where it could run, installed or not, and ends without it.
        environment |= {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
        # Adapters come when they are asked for; nobody but this process reaches the server.
        environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        if self._device_kind == "cpu":
            # Threads that spin while they wait burn the cores that others on this machine need.
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
            if self._python is not None:
                # vLLM takes the cores it is given for its own; shared ones must not be pinned.
                environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
                environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        elif self._device_indexes:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._device_indexes))
        return environment

    async def _until_ready(self) -> None:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._start_seconds
        while loop.time() < deadline:
            if self._process.returncode is not None:
                raise self._failed(f"The inference server ended with exit code {self._process.returncode}.")
            if await self._healthy(5.0):
                return
            await asyncio.sleep(0.2)
        raise self._failed(f"The inference server was not ready after {self._start_seconds:g} seconds.")

    async def _healthy(self, seconds: float) -> bool:
        assert self._client is not None
        try:
            return (await self._client.get("/health", timeout=seconds)).is_success
        except httpx.HTTPError:
            return False

    async def _stop(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._process is None:
            return
        _signal_group(self._process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            pass
        # Also after a good end: a child of the server may have outlived it.
        _signal_group(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def _failed(self, message: str) -> LtpError:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        tail = "\n".join(lines[-_LOG_LINES:]) or "(the log is empty)"
        hint = f"Its log is {self._log}; it ends with:\n{tail}"
        return LtpError(ErrorCode.INFERENCE_SERVER_FAILED, message, hint)


def _vllm_answers_on_cpu(model: Path) -> bool:
    """Whether vLLM's attention on the CPU knows the width of the heads; else its server starts, and dies of the first prompt."""
    try:
        return read_config(model).head_dim in _VLLM_CPU_HEADS
    except LtpError:
        return True


def _room_for(rank: int) -> int:
    """The rank to prepare vLLM for: 0 for none, else one of those that it knows."""
    return next((known for known in _VLLM_RANKS if 0 < rank <= known), _VLLM_RANKS[-1] if rank else 0)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _free_port() -> int:
    # Another process may take it before the server does; the server then ends at once and says so in its log.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
