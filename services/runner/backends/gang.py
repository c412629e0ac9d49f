"""Several hosts as one backend: torchrun on each, one rendezvous, one verdict. The first host's files are the run's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner.backends import Backend, LaunchStatus

T = TypeVar("T")

# Where the first rank listens: below the ephemeral ports, spread by attempt so that a port in use costs one attempt.
_PORTS, _FIRST_PORT = 8_000, 23_000
# verl's keys for how many devices a host has, and how many hosts there are.
_DEVICES, _HOSTS = "trainer.n_gpus_per_node", "trainer.nnodes"


class Gang:
    """As each of its members, with a process group over all. `address` is how they reach the first of them."""

    def __init__(self, members: Sequence[Backend], address: str = "127.0.0.1") -> None:
        self.members = list(members)
        self.address = address
        self._specs: dict[str, list[LaunchSpec]] = {}

    def run_dir(self, run_id: UUID, number: int) -> Path:
        return self.members[0].run_dir(run_id, number)

    def dirs(self, run_dir: Path) -> list[Path]:
        """The run's directory on every member."""
        run_id, number = UUID(run_dir.parent.name), int(run_dir.name.rpartition("-")[2])
        return [run_dir, *(member.run_dir(run_id, number) for member in self.members[1:])]

    def url(self, path: Path) -> str:
        return self.members[0].url(path)

    async def bring(self, spec: LaunchSpec, inputs: Sequence[Path]) -> LaunchSpec:
        """The spec of the first member; those of the others are kept for the launch."""
        run_dir = Path(spec.cwd)
        mine = [replaced(spec, run_dir, folder) for folder in self.dirs(run_dir)]
        brought = [await member.bring(each, inputs) for member, each in zip(self.members, mine, strict=True)]
        port = port_of(run_dir)
        self._specs[str(run_dir)] = [
            node_spec(each, rank, len(self.members), self.address, port) for rank, each in enumerate(brought)
        ]
        return self._specs[str(run_dir)][0]

    async def launch(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Launch on all or on none: what cannot start on one is ended on the others. Again after a cut, it completes the gang."""
        specs = self._specs.get(str(run_dir), [spec] * len(self.members))
        jobs = [m.launch(d, s) for m, d, s in zip(self.members, self.dirs(run_dir), specs, strict=True)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        cut = [r for r in results if isinstance(r, OSError)]
        refused = [r for r in results if isinstance(r, LtpError) and r.code is not ErrorCode.CONFLICT]
        if refused:
            await self.kill(run_dir)
            raise refused[0]
        if cut:
            raise cut[0]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, LtpError):
                raise result
        if all(isinstance(r, LtpError) for r in results):
            raise LtpError(ErrorCode.CONFLICT, "All members run already.", "Read their status.")

    async def status(self, run_dir: Path) -> LaunchStatus | None:
        """None until all were started; running while one of them runs. When one failed, the others are ended."""
        found = await self._each(lambda member, folder: member.status(folder), run_dir)
        known = [status for status in found if status is not None]
        if len(known) < len(found):
            return None
        failed = next((s for s in known if s.state == "exited" and (s.exit_code or s.signal)), None)
        running = [s for s in known if s.state == "running"]
        if failed is not None and running:
            structlog.get_logger().warning("a member of a gang failed, ending the others", run_dir=str(run_dir))
            await self.kill(run_dir)
        if running:
            return replace(known[0], state="running", alive=all(s.alive for s in running), exit_code=None, signal=None)
        last = max(known, key=lambda s: s.ended_at or s.heartbeat_at)
        worst = failed or known[0]
        reason = next((s.reason for s in known if s.reason), None)
        return replace(known[0], exit_code=worst.exit_code, signal=worst.signal, reason=reason, ended_at=last.ended_at)

    async def size(self, run_dir: Path, name: str) -> int:
        return await self.members[0].size(run_dir, name)

    async def read(self, run_dir: Path, name: str, offset: int, limit: int) -> bytes:
        return await self.members[0].read(run_dir, name, offset, limit)

    async def names(self, run_dir: Path, folder: str) -> list[str]:
        return await self.members[0].names(run_dir, folder)

    async def tree(self, run_dir: Path, folder: str) -> dict[str, int]:
        """Of all members together: each keeps the shards of its own ranks."""
        found = await self._each(lambda member, path: member.tree(path, folder), run_dir)
        return {name: count for each in reversed(found) for name, count in each.items()}

    async def remove(self, run_dir: Path, folder: str) -> None:
        await self._each(lambda member, path: member.remove(path, folder), run_dir)

    async def request_stop(self, run_dir: Path) -> None:
        await self._each(lambda member, folder: member.request_stop(folder), run_dir)

    async def kill(self, run_dir: Path) -> None:
        await self._each(lambda member, folder: member.kill(folder), run_dir)

    async def fetch(self, source: Path, target: Path, only: Sequence[str] | None = None) -> None:
        """Gather a folder of a run from all members; `source` is the first one's."""
        run_dir = _run_of(source)
        for member, folder in reversed(list(zip(self.members, self.dirs(run_dir), strict=True))):
            await member.fetch(folder / source.relative_to(run_dir), target, only)

    async def put(self, source: Path, target: Path) -> None:
        await asyncio.gather(*(member.put(source, target) for member in self.members))

    async def facts(self, python: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
        return await self.members[0].facts(python, packages)

    async def close(self) -> None:
        """The members belong to the fleet."""

    async def _each(self, do: Callable[[Backend, Path], Awaitable[T]], run_dir: Path) -> list[T]:
        pairs = zip(self.members, self.dirs(run_dir), strict=True)
        return list(await asyncio.gather(*(do(member, folder) for member, folder in pairs)))


def _run_of(path: Path) -> Path:
    """The run directory that a path lies in."""
    return next(p for p in (path, *path.parents) if p.name.startswith("attempt-"))


def replaced(spec: LaunchSpec, source: Path, target: Path) -> LaunchSpec:
    """The spec of a run in another directory."""

    def text(value: str) -> str:
        return value.replace(str(source), str(target))

    return replace(
        spec,
        argv=tuple(map(text, spec.argv)),
        env={name: text(value) for name, value in spec.env.items()},
        cwd=text(spec.cwd),
        metrics_path=text(spec.metrics_path),
        stop_file=text(spec.stop_file),
    )


def port_of(run_dir: Path) -> int:
    """The port of an attempt's rendezvous: the same whoever asks, another for the next attempt."""
    seed = hashlib.sha256(f"{run_dir.parent.name}/{run_dir.name}".encode()).digest()
    return _FIRST_PORT + int.from_bytes(seed[:4]) % _PORTS


def node_spec(spec: LaunchSpec, rank: int, nodes: int, address: str, port: int) -> LaunchSpec:
    """The part of one host in a gang: torchrun's node arguments, and verl told how the devices are spread.

    Raises LAUNCH_FAILED for a process that torchrun does not start: only the SPMD trainers run on several hosts so.
    """
    if "--standalone" not in spec.argv:
        message = "This algorithm is not started by torchrun, so it cannot be spread over SSH hosts."
        raise LtpError(
            ErrorCode.LAUNCH_FAILED, message, "Register the hosts as one Ray cluster (--backend ray) for it."
        )
    each = next(int(word.partition("=")[2]) for word in spec.argv if word.startswith("--nproc_per_node=")) // nodes
    meeting = [f"--nnodes={nodes}", f"--node_rank={rank}", f"--master_addr={address}", f"--master_port={port}"]
    changed = {
        "--nproc_per_node": f"--nproc_per_node={each}",
        _DEVICES: f"{_DEVICES}={each}",
        _HOSTS: f"{_HOSTS}={nodes}",
    }
    words: list[str] = []
    for word in spec.argv:
        words += meeting if word == "--standalone" else [changed.get(word.partition("=")[0], word)]
    return replace(spec, argv=tuple(words))
