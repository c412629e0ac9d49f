"""What every backend does alike: a run is its directory, and only the start of the launcher and its pulse differ by host."""

from __future__ import annotations

import asyncio
import json
import socket
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import UUID

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner.backends import LaunchStatus
from services.runner.backends.files import Files, source_tree

_STATUS_BYTES = 65_536
_ALREADY_STARTED, _NO_ROOM, _OUTDATED = 3, 5, 6


class FileBackend(ABC):
    """A backend over the files of its host."""

    def __init__(self, files: Files, root: Path) -> None:
        self.files = files
        self.root = root
        # Whose drafts are whose.
        self.me = socket.gethostname()
        self._putting: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    @abstractmethod
    async def start(self, run_dir: Path) -> tuple[int, str]:
        """Start the launcher on a directory with a launch.json; its exit code and what it complained of."""

    @abstractmethod
    async def reap(self, run_dir: Path) -> None:
        """End what a dead launcher left."""

    @abstractmethod
    async def is_alive(self, fields: dict[str, Any], run_dir: Path) -> bool:
        """Whether the launcher that wrote a status still runs. Raises rather than guesses."""

    def run_dir(self, run_id: UUID, number: int) -> Path:
        if not self.root.is_absolute():
            message = "The host was not reached since the runner started, so its home directory is not known."
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "`ltp host test HOST` tells why.")
        return self.root / "runs" / str(run_id) / f"attempt-{number}"

    def url(self, path: Path) -> str:
        return str(path)

    async def bring(self, spec: LaunchSpec, inputs: Sequence[Path]) -> LaunchSpec:
        return spec

    async def launch(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Write launch.json and start the launcher, which detaches itself. Safe to do again after a cut link."""
        # The first word stands: a second call must not change the record of what runs.
        if await self.files.size(run_dir / "status.json") is None:
            content = json.dumps({**asdict(spec), "env": dict(spec.env)}).encode()
            await self.files.write(run_dir / "launch.json", content)
        code, message = await self.start(run_dir)
        if code == _ALREADY_STARTED:
            raise LtpError(ErrorCode.CONFLICT, message, "Read its status, or start a new attempt.")
        if code == _NO_ROOM:
            hint = "Free space there, or keep fewer checkpoints: `checkpoints:` in the recipe, `ltp checkpoint remove`."
            raise LtpError(ErrorCode.DISK_FULL, message[-2000:], hint)
        if code == _OUTDATED:
            raise LtpError(ErrorCode.STALE_LEASE, message[-2000:], "The newer attempt goes on; this one is over.")
        if code != 0:
            # 4: the process could not be started; 2: the launcher could not use what it was given.
            message = message or f"the launcher ended with code {code}"
            raise LtpError(ErrorCode.LAUNCH_FAILED, message[-2000:], f"See {run_dir / 'launcher.log'}.")

    async def status(self, run_dir: Path) -> LaunchStatus | None:
        fields = await self._fields(run_dir)
        if fields is None:
            return None
        alive = await self.is_alive(fields, run_dir)
        if not alive and fields["state"] == "running":
            # It may have written its last word and gone between our two looks; over a slow link that is likely.
            fields = await self._fields(run_dir) or fields
        times: dict[str, Any] = {k: datetime.fromisoformat(v) for k, v in fields.items() if k.endswith("_at") and v}
        known = {name: fields.get(name) for name in LaunchStatus.__dataclass_fields__}
        return LaunchStatus(**{**known, **times, "alive": alive})

    async def _fields(self, run_dir: Path) -> dict[str, Any] | None:
        content = await self.files.read(run_dir / "status.json", 0, _STATUS_BYTES)
        return None if content is None else json.loads(content)

    async def size(self, run_dir: Path, name: str) -> int:
        return await self.files.size(await self._inside(run_dir, name)) or 0

    async def read(self, run_dir: Path, name: str, offset: int, limit: int) -> bytes:
        return await self.files.read(await self._inside(run_dir, name), offset, limit) or b""

    async def names(self, run_dir: Path, folder: str) -> list[str]:
        return await self.files.names(await self._inside(run_dir, folder))

    async def tree(self, run_dir: Path, folder: str) -> dict[str, int]:
        return await self.files.tree(await self._inside(run_dir, folder))

    async def remove(self, run_dir: Path, folder: str) -> None:
        path = await self._inside(run_dir, folder)
        if path == await self.files.real(run_dir):
            raise LtpError(ErrorCode.INVALID_REQUEST, "The run itself is not deleted.", "Name a folder inside it.")
        await self.files.remove(path)

    async def _inside(self, run_dir: Path, name: str) -> Path:
        """The file itself, links resolved. Raises INVALID_REQUEST for one outside the run: training writes there."""
        root = await self.files.real(run_dir)
        path = await self.files.real(run_dir / name)
        if not path.is_relative_to(root):
            raise LtpError(ErrorCode.INVALID_REQUEST, f"{name} is not a file of the run.", "Name a file inside it.")
        return path

    async def request_stop(self, run_dir: Path) -> None:
        spec: dict[str, Any] = json.loads(await self.files.read(run_dir / "launch.json", 0, 1 << 24) or b"{}")
        await self.files.write(Path(spec["stop_file"]), b"")

    async def kill(self, run_dir: Path) -> None:
        """Create the kill file, and do the launcher's work in its place if it is gone."""
        await self.files.write(run_dir / "kill", b"")
        status = await self.status(run_dir)
        if status is not None and status.state == "running" and not status.alive:
            await self.reap(run_dir)

    async def fetch(self, source: Path, target: Path, only: Sequence[str] | None = None) -> None:
        for name in await self.files.tree(source):
            if only is None or any(fnmatch(name, pattern) for pattern in only):
                await self.files.get(source / name, target / name)

    async def put(self, source: Path, target: Path) -> None:
        """A folder is complete when it has its name: its files arrive in a draft beside it, and again only if they differ.

        Each runner has a draft of its own, so that two that bring the same do not take it from each other.
        """
        async with self._putting[target]:
            if await asyncio.to_thread(source.is_file):
                if await self.files.size(target) != (await asyncio.to_thread(source.stat)).st_size:
                    await self.files.put(source, target)
                return
            if await self.files.names(target):
                return
            draft = target.with_name(f"{target.name}.{self.me}.draft")
            there = await self.files.tree(draft)
            for name, count in sorted((await asyncio.to_thread(source_tree, source)).items()):
                if there.get(name) != count:
                    await self.files.put(source / name, draft / name)
            await self.files.move(draft, target)

    async def close(self) -> None:  # noqa: B027  # most kinds hold nothing open
        """Let go of what is held open."""
