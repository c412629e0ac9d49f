"""Warm model servers: one is used again by the next evaluation of the same weights, and goes when it is idle or in the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog

from services.evaluator.fingerprint import weights_bytes
from services.evaluator.inference import InferenceServer
from services.evaluator.settings import EvaluatorSettings

DeviceKind = Literal["cpu", "gpu"]
# Weights in float32 where the file has bfloat16, activations and cache of a small model, and the runtime itself.
_CPU_FACTOR, _CPU_BASE_BYTES = 2.2, 1 << 30
_LOOK_SECONDS = 1.0


@dataclass
class _Warm:
    """A running server, who uses it, and since when nobody does."""

    server: InferenceServer
    kind: DeviceKind
    indexes: frozenset[int]
    memory_bytes: int
    users: int = 0
    idle_since: float = 0.0


@dataclass
class ModelCache:
    """The servers of this process, by weights and devices. `run` ends idle ones; `close` ends all."""

    settings: EvaluatorSettings
    _servers: dict[tuple[str, DeviceKind, frozenset[int]], _Warm] = field(
        default_factory=dict[tuple[str, DeviceKind, frozenset[int]], "_Warm"]
    )
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def serving(
        self, fingerprint: str, model: Path, kind: DeviceKind, indexes: Sequence[int]
    ) -> AsyncIterator[InferenceServer]:
        """A server of these weights on these devices: the warm one, or a new one. Raises INFERENCE_SERVER_FAILED."""
        key = (fingerprint, kind, frozenset(indexes))
        async with self._lock:
            warm = self._servers.get(key)
            if warm is not None and not warm.server.running:
                await self._end(key)
                warm = None
            if warm is None:
                await self._make_room(kind, key[2], self._need(model, kind))
                warm = self._servers[key] = await self._start(fingerprint, model, kind, indexes)
            warm.users += 1
        try:
            yield warm.server
        finally:
            warm.users -= 1
            warm.idle_since = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """End servers that were idle for too long."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before = asyncio.get_running_loop().time() - self.settings.evaluator_idle_seconds
            async with self._lock:
                for key in [k for k, w in self._servers.items() if w.users == 0 and w.idle_since <= before]:
                    await self._end(key)

    async def leave(self, kind: DeviceKind, indexes: Sequence[int]) -> None:
        """End idle servers on devices that were given to other work: it was promised the whole device."""
        async with self._lock:
            wanted = frozenset(indexes)
            for key in [k for k, w in self._servers.items() if w.users == 0 and w.kind == kind and w.indexes & wanted]:
                await self._end(key)

    async def close(self) -> None:
        """End all servers."""
        async with self._lock:
            for key in list(self._servers):
                await self._end(key)

    def warm(self) -> list[str]:
        """Fingerprints of the models that are served now."""
        return [key[0] for key in self._servers]

    async def _start(self, fingerprint: str, model: Path, kind: DeviceKind, indexes: Sequence[int]) -> _Warm:
        log = self.settings.root() / "evaluations" / f"server-{fingerprint.rpartition(':')[2][:16]}.log"
        await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
        server = InferenceServer(
            model, log, device_kind=kind, device_indexes=indexes, vllm_python=self.settings.evaluator_vllm_python
        )
        await server.__aenter__()
        return _Warm(server, kind, frozenset(indexes), self._need(model, kind))

    async def _make_room(self, kind: DeviceKind, indexes: frozenset[int], need: int) -> None:
        """End idle servers, the longest idle first, until the new one fits. A GPU holds one vLLM, which takes it whole."""
        idle = sorted((k for k, w in self._servers.items() if w.users == 0), key=lambda k: self._servers[k].idle_since)
        if kind == "gpu":
            idle = [k for k in idle if self._servers[k].kind == "gpu" and self._servers[k].indexes & indexes]
            for key in idle:
                await self._end(key)
            return
        for key in idle:
            held = sum(w.memory_bytes for w in self._servers.values() if w.kind == "cpu")
            if held + need <= self._budget():
                return
            if self._servers[key].kind == "cpu":
                await self._end(key)

    async def _end(self, key: tuple[str, DeviceKind, frozenset[int]]) -> None:
        warm = self._servers.pop(key)
        structlog.get_logger().info("model server ended", fingerprint=key[0], device_kind=warm.kind)
        await warm.server.__aexit__(None, None, None)

    def _need(self, model: Path, kind: DeviceKind) -> int:
        return int(weights_bytes(model) * _CPU_FACTOR) + _CPU_BASE_BYTES if kind == "cpu" else 0

    def _budget(self) -> int:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.settings.evaluator_memory_bytes or whole // 2
