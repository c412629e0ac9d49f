"""Serves models for people to talk to: the same server that evaluates them, kept while somebody asks, on the processors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import structlog
from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.serving import ServeAsk, ServedModel
from services.evaluator.fingerprint import check_model
from services.evaluator.inference import InferenceServer
from services.evaluator.settings import EvaluatorSettings

router = NatsRouter()

_MOST = 2
_LOOK_SECONDS = 1.0


@dataclass
class _Running:
    server: InferenceServer
    asked_at: float


@dataclass
class Serving:
    """The servers of this process by directory: at most two, the one that was asked longest ago goes first."""

    settings: EvaluatorSettings
    _running: dict[Path, _Running] = field(default_factory=dict[Path, _Running])
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, path: Path) -> InferenceServer:
        """The server of a model, started when there is none. Raises MODEL_NOT_FOUND, INFERENCE_SERVER_FAILED."""
        async with self._lock:
            found = self._running.get(path)
            if found is not None and not found.server.running:
                await self._end(path)
                found = None
            if found is None:
                await asyncio.to_thread(check_model, path)
                while len(self._running) >= _MOST:
                    await self._end(min(self._running, key=lambda p: self._running[p].asked_at))
                found = self._running[path] = _Running(await self._started(path), 0.0)
            found.asked_at = time.monotonic()
            return found.server

    async def run(self) -> None:
        """End servers nobody asks any more, until the service stops; then all."""
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                before = time.monotonic() - self.settings.evaluator_idle_seconds
                async with self._lock:
                    for path in [p for p, r in self._running.items() if r.asked_at < before]:
                        await self._end(path)
        finally:
            for path in list(self._running):
                await self._end(path)

    async def _started(self, path: Path) -> InferenceServer:
        log = self.settings.root() / "evaluations" / f"serving-{path.name[:40]}.log"
        await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
        server = InferenceServer(path, log, vllm_python=self.settings.evaluator_vllm_python)
        await server.__aenter__()
        structlog.get_logger().info("a model is served", path=str(path), url=server.url)
        return server

    async def _end(self, path: Path) -> None:
        await self._running.pop(path).server.__aexit__(None, None, None)


@router.subscriber(**answered_by("evaluator", "serve"))
@replies
async def serve(question: ServeAsk, serving: Annotated[Serving, Context("serving")]) -> ServedModel:
    """Where the model is served; starts its server."""
    server = await serving.serve(await asyncio.to_thread(Path(question.path).resolve))
    return ServedModel(url=f"{server.url}/v1", name=server.model_name)
