"""This machine as a backend: run directories are folders here, launchers are processes here."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner import launch as launcher
from services.runner.backends import LaunchStatus

_ALREADY_STARTED = 3


class LocalBackend:
    """Launches attempts on the machine the runner itself runs on."""

    async def launch(self, run_dir: Path, spec: LaunchSpec) -> None:
        """Write launch.json and start the launcher, which detaches itself."""
        await asyncio.to_thread(_write_spec, run_dir, spec)
        code, message = await _run_launcher(str(run_dir))
        if code == _ALREADY_STARTED:
            raise LtpError(ErrorCode.CONFLICT, message, "Read its status, or start a new attempt.")
        if code != 0:
            raise LtpError(ErrorCode.LAUNCH_FAILED, message, f"See {run_dir / 'launcher.log'}.")

    async def status(self, run_dir: Path) -> LaunchStatus | None:
        """The launcher's last word, or None before it said anything."""
        return await asyncio.to_thread(_read_status, run_dir)

    async def read(self, run_dir: Path, name: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a file below `run_dir`, from `offset`."""
        return await asyncio.to_thread(_read_part, run_dir, name, offset, limit)

    async def request_stop(self, run_dir: Path) -> None:
        """Create the stop file named in launch.json."""
        await asyncio.to_thread(_create_stop_file, run_dir)

    async def kill(self, run_dir: Path) -> None:
        """Create the kill file, and do the launcher's work in its place if it is gone."""
        await asyncio.to_thread((run_dir / "kill").touch)
        status = await self.status(run_dir)
        if status is not None and status.state == "running" and not status.alive:
            await _run_launcher("--reap", str(run_dir))


async def _run_launcher(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", launcher.__file__, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    return process.returncode or 0, stderr.decode(errors="replace").strip()


def _write_spec(run_dir: Path, spec: LaunchSpec) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    # The first word stands: a second call must not change the record of what runs.
    if not (run_dir / "status.json").exists():
        launcher.write_whole(run_dir / "launch.json", {**asdict(spec), "env": dict(spec.env)})


def _read_status(run_dir: Path) -> LaunchStatus | None:
    try:
        fields: dict[str, Any] = json.loads((run_dir / "status.json").read_bytes())
    except FileNotFoundError:
        return None
    times: dict[str, Any] = {k: datetime.fromisoformat(v) for k, v in fields.items() if k.endswith("_at") and v}
    alive: Any = _is_alive(fields["launcher_pid"], fields["launcher_start_ticks"])
    return LaunchStatus(**{**fields, **times, "alive": alive})


def _is_alive(pid: int, ticks: int) -> bool:
    try:
        return launcher.start_ticks(pid) == ticks
    except OSError:
        return False


def _read_part(run_dir: Path, name: str, offset: int, limit: int) -> bytes:
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{name} is not a file of the run.", "Name a file inside it.")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""


def _create_stop_file(run_dir: Path) -> None:
    spec: dict[str, Any] = json.loads((run_dir / "launch.json").read_bytes())
    path = Path(spec["stop_file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
