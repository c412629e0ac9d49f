"""Making a host ready to train: an environment of its own in the working directory, from the lock of its role, compared at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from ltp import locks
from ltp.contracts.host_access import HostCheck, HostSetUp, HostSetupRequested
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.worker import Held
from services.runner import hosts_store
from services.runner.backends.ssh import SshBackend
from services.runner.fleet import Fleet
from services.runner.host import parse_gpus
from services.runner.host_reports import report

# Older and newer interpreters have no wheels of the pinned packages.
_PYTHONS = ("python3.12", "python3.11", "python3")
_IS_RIGHT = "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))"
_INSTALL_SECONDS = 3 * 3600.0


class Setup:
    """One set-up of one host."""

    def __init__(self, backend: SshBackend, request: HostSetupRequested) -> None:
        self.backend = backend
        self.request = request
        self.python = ""
        self.role: str = request.role or "training"

    async def steps(self) -> AsyncIterator[HostCheck]:
        """Each step as it is done; the first that fails is the last."""
        for name, step in (
            ("connect", self._connect),
            ("python", self._find_python),
            ("code", self._push_code),
            ("bundle", self._push_bundle),
            ("venv", self._make_venv),
            ("install", self._install),
            ("verify", self._verify),
        ):
            check = await _done(name, step)
            yield check
            if check.verdict == "fail":
                return

    async def _connect(self) -> str:
        await self.backend.link.open()
        self.root = (await self.backend.place(interpreter=False)).root
        facts = await self.backend.ask_facts({"folder": str(self.root)}, "python3")
        if self.request.role is None:
            self.role = "gpu" if parse_gpus(facts["gpus"]) else "training"
        if facts["folder"].get("problem"):
            raise _unfit(f"{self.root}: {facts['folder']['problem']}", "Name another with --work-dir.")
        return f"{self.root}, role {self.role}"

    async def _find_python(self) -> str:
        for name in _PYTHONS:
            done = await self.backend.link.run([name, "-c", _IS_RIGHT])
            if done.code == 0:
                self.python = name
                return name
        raise _unfit(
            "no Python 3.11 or 3.12 with venv", "Install python3.11 and python3.11-venv there (apt, dnf, or conda)."
        )

    async def _push_code(self) -> str:
        return str(await self.backend.bring_code(self.python))

    async def _push_bundle(self) -> str:
        if self.request.bundle is None:
            return "none: the host downloads for itself"
        source = Path(self.request.bundle)
        wheels = await asyncio.to_thread(lambda: sorted(source.glob("wheels/*.whl")))
        if not wheels:
            raise LtpError(ErrorCode.NOT_FOUND, f"{source} holds no wheels.", "Make it with `ltp setup bundle FOLDER`.")
        for wheel in wheels:
            await self.backend.put(wheel, self.root / "setup" / "wheels" / wheel.name)
        return f"{len(wheels)} wheels"

    async def _make_venv(self) -> str:
        await self._run([self.python, "-m", "venv", str(self.root / "env")])
        return str(self.root / "env")

    async def _install(self) -> str:
        lock = self.root / "setup" / f"{self.role}.txt"
        await self.backend.files.write(lock, (locks.FOLDER / f"{self.role}.txt").read_bytes())
        offline = (
            [] if self.request.bundle is None else ["--no-index", "--find-links", str(self.root / "setup" / "wheels")]
        )
        pip = [str(self.root / "env/bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        await self._run([*pip, *offline, "-r", str(lock)])
        return f"{len(locks.read(self.role))} packages"

    async def _verify(self) -> str:
        wanted = {"packages": sorted(locks.read(self.role))}
        facts = await self.backend.ask_facts(wanted, str(self.root / "env/bin/python"))
        differences = locks.compare(locks.read(self.role), facts["packages"])
        if differences:
            raise _unfit(
                "; ".join(map(str, differences[:8])), "Run the set-up again; its install step tells what pip says."
            )
        return f"as the lock `{self.role}` says"

    async def _run(self, command: list[str]) -> None:
        done = await self.backend.link.run(command, timeout=_INSTALL_SECONDS)
        if done.code != 0:
            said = (done.stderr or done.stdout).strip()[-800:]
            raise LtpError(
                ErrorCode.DEPENDENCY_MISSING, said, "Without a network there, give --bundle (docs/hosts.md)."
            )


async def _done(name: str, step: Callable[[], Awaitable[str]]) -> HostCheck:
    began = time.monotonic()
    try:
        detail = await step()
    except (LtpError, OSError) as error:
        known = error if isinstance(error, LtpError) else None
        return HostCheck(
            name=name,
            verdict="fail",
            detail=known.message if known else str(error),
            hint=known.hint if known else "The link broke; run the set-up again, it goes on where it was.",
            code=known.code if known else ErrorCode.HOST_UNREACHABLE,
            seconds=time.monotonic() - began,
        )
    return HostCheck(name=name, verdict="ok", detail=detail, seconds=time.monotonic() - began)


async def carry_out_setup(held: Held, fleet: Fleet) -> None:
    """A set-up that was asked for: its report grows step by step, and its end is said."""
    request = HostSetupRequested.model_validate(held.work.payload)
    rows = await hosts_store.all_hosts(fleet.database.engine, request.host_id)
    if not rows:
        return  # Removed meanwhile.
    backend = fleet.open(rows[0])
    assert isinstance(backend, SshBackend)
    await report(fleet, (request.host_id, request.report_id), backend, Setup(backend, request).steps(), HostSetUp)


async def compared(backend: Any, role: str | None) -> dict[str, Any]:
    """How the packages of a host's training environment differ from the lock of its role."""
    facts = await backend.facts(packages=locks.package_names())
    role = role or ("gpu" if parse_gpus(facts["gpus"]) else "training")
    return {
        "role": role,
        "digest": locks.versions()["roles"][role]["digest"],
        "packages": len(locks.read(role)),
        "python": facts["executable"],
        "differences": [vars(d) for d in locks.compare(locks.read(role), facts["packages"])],
    }


def _unfit(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.HOST_UNFIT, message, hint)
