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

from ltp.core.errors import LtpError
from ltp.core.serving import RUNTIME_BYTES, serving_bytes
from ltp.model_files import read_config
from services.evaluator.fingerprint import weights_bytes
from services.evaluator.inference import InferenceServer
from services.evaluator.settings import EvaluatorSettings

DeviceKind = Literal["cpu", "gpu"]
# Where config.json is of an unknown kind: weights in float32 where the file has bfloat16, and cache as for a small model.
_UNKNOWN_FACTOR = 2.5
# What the memory of a server is predicted for: a full batch of prompts with answers of ordinary length.
_TOKENS = 1024
_CPU_ELEMENT_BYTES = 4
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Wanted:
    """The server an evaluation needs: these weights on these devices, able to hold adapters of `rank` (0: none)."""

    fingerprint: str
    model: Path
    kind: DeviceKind
    indexes: frozenset[int]
    rank: int = 0


@dataclass
class _Warm:
    """A running server, who uses it, and since when nobody does."""

    server: InferenceServer
    kind: DeviceKind
    indexes: frozenset[int]
    memory_bytes: int
    users: int = 0
    idle_since: float = 0.0


_Key = tuple[str, DeviceKind, frozenset[int]]


@dataclass
class ModelCache:
    """The servers of this process, by weights and devices. `run` ends idle ones; `close` ends all."""

    settings: EvaluatorSettings
    _servers: dict[_Key, list[_Warm]] = field(default_factory=dict[_Key, "list[_Warm]"])
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def serving(self, wanted: Wanted) -> AsyncIterator[InferenceServer]:
        """A server of these weights on these devices: the warm one, or a new one. Raises INFERENCE_SERVER_FAILED."""
        async with self._lock:
            warm = await self._found(wanted) or await self._started(wanted)
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
                for warm in [w for w in self._idle() if w.idle_since <= before]:
                    await self._end(warm)

    async def leave(self, kind: DeviceKind, indexes: Sequence[int]) -> None:
        """End idle servers on devices that were given to other work: it was promised the whole device."""
        async with self._lock:
            wanted = frozenset(indexes)
            for warm in [w for w in self._idle() if w.kind == kind and w.indexes & wanted]:
                await self._end(warm)

    async def close(self) -> None:
        """End all servers."""
        async with self._lock:
            for warm in [w for warms in self._servers.values() for w in warms]:
                await self._end(warm)

    def warm(self) -> dict[str, int]:
        """Fingerprints of the models that are served now, with the process that serves each."""
        return {key[0]: warm.server.pid for key, warms in self._servers.items() for warm in warms}

    async def _found(self, wanted: Wanted) -> _Warm | None:
        for warm in list(self._servers.get(_key(wanted), [])):
            if not warm.server.running:
                await self._end(warm)
            elif warm.server.takes_adapters >= wanted.rank:
                return warm
            elif warm.users == 0:
                # vLLM must know at its start that adapters will come, and how large.
                await self._end(warm)
        return None

    async def _started(self, wanted: Wanted) -> _Warm:
        need = predicted_bytes(wanted.model, self.settings.evaluator_concurrency) if wanted.kind == "cpu" else 0
        await self._make_room(wanted, need)
        name = wanted.fingerprint.rpartition(":")[2][:16]
        log = self.settings.root() / "evaluations" / f"server-{name}.log"
        await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
        server = InferenceServer(
            wanted.model,
            log,
            device_kind=wanted.kind,
            device_indexes=sorted(wanted.indexes),
            vllm_python=self.settings.evaluator_vllm_python,
            adapter_rank=wanted.rank,
        )
        await server.__aenter__()
        warm = _Warm(server, wanted.kind, wanted.indexes, need)
        self._servers.setdefault(_key(wanted), []).append(warm)
        return warm

    async def _make_room(self, wanted: Wanted, need: int) -> None:
        """End idle servers, the longest idle first, until the new one fits. A GPU holds one vLLM, which takes it whole."""
        if wanted.kind == "gpu":
            for warm in [w for w in self._idle() if w.kind == "gpu" and w.indexes & wanted.indexes]:
                await self._end(warm)
            return
        for warm in [w for w in self._idle() if w.kind == "cpu"]:
            if self._held() + need <= self._budget():
                return
            await self._end(warm)
        if self._held() + need > self._budget():
            # Those in use cannot go, and whoever holds a leased device must not wait for another that does.
            told = {"needed_bytes": need, "held_bytes": self._held(), "budget_bytes": self._budget()}
            structlog.get_logger().warning("model server exceeds the memory budget", model=str(wanted.model), **told)

    def _idle(self) -> list[_Warm]:
        idle = [warm for warms in self._servers.values() for warm in warms if warm.users == 0]
        return sorted(idle, key=lambda warm: warm.idle_since)

    def _held(self) -> int:
        return sum(warm.memory_bytes for warms in self._servers.values() for warm in warms if warm.kind == "cpu")

    async def _end(self, warm: _Warm) -> None:
        key = next(key for key, warms in self._servers.items() if warm in warms)
        self._servers[key] = [other for other in self._servers[key] if other is not warm]
        if not self._servers[key]:
            del self._servers[key]
        structlog.get_logger().info("model server ended", fingerprint=key[0], device_kind=warm.kind)
        await warm.server.__aexit__(None, None, None)

    def _budget(self) -> int:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.settings.evaluator_memory_bytes or whole // 2


def predicted_bytes(model: Path, sequences: int) -> int:
    """The memory that our own server of a model will take on the CPU, by the planner's model of the architecture."""
    try:
        arch = read_config(model)
    except LtpError:
        return RUNTIME_BYTES + int(weights_bytes(model) * _UNKNOWN_FACTOR)
    tokens = min(_TOKENS, arch.max_positions)
    return serving_bytes(arch, sequences=sequences, tokens=tokens, element_bytes=_CPU_ELEMENT_BYTES)


def _key(wanted: Wanted) -> _Key:
    return wanted.fingerprint, wanted.kind, wanted.indexes
