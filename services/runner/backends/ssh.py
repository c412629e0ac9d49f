"""A host over SSH as a backend: its run directories by SFTP, its launcher by one command, nothing of ltp installed there."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner import delivery, host_facts
from services.runner.backends import LinkDownError
from services.runner.backends.through_files import FileBackend
from services.runner.ssh.files import SftpFiles
from services.runner.ssh.link import Link

_FACTS_SECONDS = 60.0
# Where a named conda environment may be, below the home directory or in the system.
_CONDA = ("miniconda3", "miniforge3", "anaconda3", "mambaforge", ".conda", "/opt/conda", "/opt/miniconda3")
# Unpacks an archive that we made, beside its place, and moves it there whole.
_UNPACK = """
import os, sys, tarfile, shutil
archive, target = sys.argv[1:]
draft = archive + ".draft"
with tarfile.open(archive) as file:
    for member in file.getmembers():
        path = os.path.join(draft, member.name)
        if not member.isfile() or not os.path.realpath(path).startswith(os.path.realpath(draft) + os.sep):
            sys.exit("a strange member: " + member.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            shutil.copyfileobj(file.extractfile(member), out)
try:
    os.rename(draft, target)
except OSError:
    # Another runner was faster, with the same content.
    if not os.path.isdir(target):
        raise
    shutil.rmtree(draft)
os.unlink(archive)
"""


@dataclass
class _Place:
    """What was found out about the host since the link stands."""

    root: Path
    python: str
    code: Path | None = None


class SshBackend(FileBackend):
    """Launches attempts on a host over a link. `work_dir` and `python` are as the operator told them."""

    def __init__(self, link: Link, work_dir: str, python: str | None) -> None:
        super().__init__(SftpFiles(link), Path(work_dir))
        self.link = link
        self._work_dir = work_dir
        self._python = python
        self._place: _Place | None = None

    async def place(self, *, interpreter: bool = True) -> _Place:
        """The working directory without `~`, and the interpreter. Raises HOST_UNFIT when there is none, unless told to do without."""
        if self._place is None:
            home = await self.files.real(Path())
            root = _expanded(self._work_dir, home)
            found = _Place(root, await self._interpreter(root, home) if interpreter else "python3")
            self.root = root
            if not interpreter:
                return found
            self._place = found
        return self._place

    async def _interpreter(self, root: Path, home: Path) -> str:
        candidates = _candidates(self._python, root, home)
        for path in candidates:
            if await self.files.size(path) is not None:
                return str(path)
        if self._python is None:
            return "python3"
        raise LtpError(
            ErrorCode.HOST_UNFIT,
            f"{self.link.target.host_id} has no Python at {' or '.join(map(str, candidates[:3]))}.",
            f"`ltp setup host {self.link.target.host_id}` installs one, or name another with --python.",
        )

    async def facts(self, python: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
        """As `host_facts.collect`. Raises HOST_UNFIT when the interpreter cannot be used."""
        # What was found out before may have changed: an environment was installed meanwhile, say.
        self._place = None
        place = await self.place()
        wanted = {"packages": list(packages), "folder": str(place.root), "hub": None}
        return await self.ask_facts(wanted, python or place.python)

    async def ask_facts(self, wanted: dict[str, Any], python: str) -> dict[str, Any]:
        """What `host_facts.py`, run there by `python`, finds."""
        script = await asyncio.to_thread(Path(host_facts.__file__).read_bytes) + f"\n\nmain({wanted!r})\n".encode()
        done = await self.link.run([python, "-I", "-"], stdin=script, timeout=_FACTS_SECONDS)
        answer = done.stdout.rpartition("LTP-FACTS ")[2]
        try:
            return json.loads(answer)
        except ValueError:
            said = (done.stderr or done.stdout).strip()[-300:] or f"exit code {done.code}"
            raise LtpError(
                ErrorCode.HOST_UNFIT,
                f"{python} on {self.link.target.host_id} cannot be used: {said}",
                "It must be Python 3.9 or later; name another with --python.",
            ) from None

    def url(self, path: Path) -> str:
        return f"ssh://{self.link.target.host_id}{path}"

    async def bring(self, spec: LaunchSpec, inputs: Sequence[Path]) -> LaunchSpec:
        """Send what the host lacks; by content, so that a model or a dataset travels once."""
        place = await self.place()
        await self._require_own_folders(place.root)
        code = await self.bring_code()
        moved = {str(delivery.libraries()): str(code / "libs")}
        for source in [*inputs, *delivery.mentioned_files(spec)]:
            if not source.is_relative_to(delivery.libraries()):
                target = place.root / "cache" / await delivery.digest(source) / _plain(source.name)
                if await self.files.size(target) is None and not await self.files.names(target):
                    await self.put(source, target)
                moved[str(source)] = str(target)
        return delivery.relocated(spec, moved, place.python)

    async def bring_code(self, python: str | None = None) -> Path:
        """The folder on the host with the launcher and the libraries of this version; any Python unpacks them."""
        place = await self.place(interpreter=python is None)
        if place.code is None:
            archive = delivery.code_archive()
            target = place.root / "code" / delivery.content_digest(archive)
            if await self.files.size(target / "launch.py") is None:
                packed = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tar")
                await self.files.write(packed, archive)
                done = await self.link.run([python or place.python, "-I", "-c", _UNPACK, str(packed), str(target)])
                if done.code != 0:
                    message = f"The platform's code cannot be unpacked on the host: {done.stderr.strip()[-300:]}"
                    raise LtpError(ErrorCode.HOST_UNFIT, message, "Check the disk and the working directory.")
            place.code = target
        return place.code

    async def _require_own_folders(self, root: Path) -> None:
        """A link in the working directory would let a run write, and its clean-up delete, somewhere else."""
        real = await self.files.real(root)
        for name in ("runs", "cache", "code"):
            found = await self.files.real(root / name)
            if found != real / name:
                message = (
                    f"{root / name} on {self.link.target.host_id} leads to {found}, outside the working directory."
                )
                raise LtpError(ErrorCode.HOST_UNFIT, message, "Name the real folder as the working directory.")

    async def start(self, run_dir: Path) -> tuple[int, str]:
        return await self._launcher(str(run_dir))

    async def reap(self, run_dir: Path) -> None:
        await self._launcher("--reap", str(run_dir))

    async def _launcher(self, *arguments: str) -> tuple[int, str]:
        place = await self.place()
        done = await self.link.run([place.python, "-I", str(await self.bring_code() / "launch.py"), *arguments])
        return done.code, done.stderr.strip()

    async def is_alive(self, fields: dict[str, Any], run_dir: Path) -> bool:
        path = Path(f"/proc/{int(fields['launcher_pid'])}/stat")
        try:
            stat = await self.files.read(path, 0, 4096)
        except LinkDownError:
            raise
        except OSError:
            # A process that goes while it is read answers ESRCH, for which SFTP has only "failure": now it is gone.
            stat = await self.files.read(path, 0, 4096)
        if not stat:
            return False
        # As launch.start_ticks, of another machine's process.
        return int(stat.decode(errors="replace").rpartition(")")[2].split()[19]) == fields["launcher_start_ticks"]

    async def close(self) -> None:
        await self.link.close()


def _expanded(text: str, home: Path) -> Path:
    return home / text[1:].strip("/") if text.startswith("~") else Path(text.rstrip("/"))


def _plain(name: str) -> str:
    """A name that is one word to everybody."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "_"


def _candidates(told: str | None, root: Path, home: Path) -> list[Path]:
    if told is None:
        return [root / "env" / "bin" / "python"]
    if told.startswith("conda:"):
        name = told.removeprefix("conda:")
        return [home / base / "envs" / name / "bin" / "python" for base in _CONDA]
    path = _expanded(told, home)
    # A prefix (venv, conda) or the interpreter itself.
    return [path / "bin" / "python", path]
