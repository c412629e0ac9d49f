"""This machine as a backend: run directories are folders here, launchers are processes here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.runner import host_facts
from services.runner import launch as launcher
from services.runner.backends.files import LocalFiles
from services.runner.backends.through_files import FileBackend


class LocalBackend(FileBackend):
    """Launches attempts on the machine the runner itself runs on; `root` is the platform's data directory."""

    def __init__(self, root: Path = Path("/")) -> None:
        super().__init__(LocalFiles(), root)

    async def start(self, run_dir: Path) -> tuple[int, str]:
        return await _run_launcher(str(run_dir))

    async def reap(self, run_dir: Path) -> None:
        await _run_launcher("--reap", str(run_dir))

    async def is_alive(self, fields: dict[str, Any], run_dir: Path) -> bool:
        try:
            return launcher.start_ticks(fields["launcher_pid"]) == fields["launcher_start_ticks"]
        except OSError:
            return False

    async def facts(self, python: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
        wanted = {"packages": list(packages), "folder": str(self.root)}
        return await asyncio.to_thread(host_facts.collect, wanted)


async def _run_launcher(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", launcher.__file__, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    return process.returncode or 0, stderr.decode(errors="replace").strip()
