"""The test of the way to a host: step by step from its name to its packages, each step told as soon as it is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ltp import locks
from ltp.contracts.host_access import Access, HostCheck, HostTested, HostTestRequested
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.worker import Held
from services.runner import host_findings, hosts_store
from services.runner.backends import LinkDownError
from services.runner.backends.ray import RayBackend
from services.runner.backends.ssh import SshBackend
from services.runner.fleet import Fleet
from services.runner.host_reports import report

_WAY_SECONDS = 10.0
HUB = "https://huggingface.co"


@dataclass
class Seen:
    """What a step found for those after it."""

    access: Access
    host_id: str
    hub: str = HUB


async def examine(
    backend: SshBackend | RayBackend, access: Access, host_id: str, hub: str = HUB
) -> AsyncIterator[HostCheck]:
    """Every step in order; after the first that fails, those that need it are told as skipped."""
    seen, ray = Seen(access, host_id, hub), isinstance(backend, RayBackend)
    parts = urlsplit(access.address) if ray else None
    address = (parts.hostname or "") if parts else access.address
    port = (parts.port or 8265) if parts else access.port
    way = [("dns", lambda: _dns(address)), ("tcp", lambda: _tcp(address, port, banner=not ray))]
    for name, step in way:
        check = await _timed(name, step)
        yield check
        if check.verdict == "fail":
            for skipped in (*(() if name == "tcp" else ("tcp",)), *_after_way(ray)):
                yield HostCheck(name=skipped, verdict="skipped", detail=f"needs {name}")
            return
    began = time.monotonic()
    try:
        facts, middle = await _ask(backend, seen)
    except (LtpError, OSError) as error:
        for check in _of_refusal(error, began, ray=ray):
            yield check
        return
    spent = time.monotonic() - began
    greeting = [] if ray else [HostCheck(name="host_key", verdict="ok", detail=_key(backend), seconds=spent)]
    who = access.user if not ray else "the cluster"
    for check in (*greeting, HostCheck(name="auth", verdict="ok", detail=f"{who} may enter", seconds=spent)):
        yield check
    for check in host_findings.findings(facts, middle):
        yield check
    if isinstance(backend, RayBackend):
        yield await _timed("resources", backend.describe_resources)


def _after_way(ray: bool) -> tuple[str, ...]:
    return ("auth", *host_findings.NAMES, "resources") if ray else ("host_key", "auth", *host_findings.NAMES)


async def _ask(backend: SshBackend | RayBackend, seen: Seen) -> tuple[dict[str, Any], float]:
    """The host's facts, and our clock in the middle of the question."""
    if isinstance(backend, SshBackend):
        await backend.link.open()
        place = await backend.place()
        wanted = {"packages": locks.package_names(), "folder": str(place.root), "hub": seen.hub}
        before = time.time()
        facts = await backend.ask_facts(wanted, place.python)
    else:
        before = time.time()
        facts = await backend.facts(packages=locks.package_names())
    return facts, (before + time.time()) / 2


def _key(backend: Any) -> str:
    import asyncssh

    pinned = backend.link.target.pinned_key
    return asyncssh.import_public_key(pinned).get_fingerprint() + " (pinned)" if pinned else "not pinned"


def _of_refusal(error: LtpError | OSError, began: float, *, ray: bool) -> list[HostCheck]:
    """Which step the refusal belongs to; the ones before it were passed."""
    code = error.code if isinstance(error, LtpError) else ErrorCode.HOST_UNREACHABLE
    order = ["auth", *host_findings.NAMES] if ray else ["host_key", "auth", *host_findings.NAMES]
    at = {ErrorCode.HOST_KEY_CHANGED: "host_key", ErrorCode.HOST_UNFIT: "python"}.get(code, "auth")
    if isinstance(error, LinkDownError) and not ray:
        at = "host_key"
    if at not in order:
        at = order[0]
    hint = (
        error.hint
        if isinstance(error, LtpError)
        else "It accepts connections but does not speak SSH to the end: its load, its log."
    )
    detail = error.message if isinstance(error, LtpError) else str(error)
    checks = [
        HostCheck(name=name, verdict="ok", detail="passed")
        for name in order[: order.index(at)]
        if name in ("host_key", "auth")
    ]
    seconds = time.monotonic() - began
    checks.append(HostCheck(name=at, verdict="fail", detail=detail, hint=hint, code=code, seconds=seconds))
    rest = [name for name in order if name not in {check.name for check in checks}]
    return checks + [HostCheck(name=name, verdict="skipped", detail=f"needs {at}") for name in rest]


async def _timed(name: str, step: Any) -> HostCheck:
    began = time.monotonic()
    try:
        detail = await asyncio.wait_for(step(), _WAY_SECONDS)
    except (LtpError, OSError, TimeoutError) as error:
        known = error if isinstance(error, LtpError) else None
        said = known.message if known else str(error) or f"no answer within {_WAY_SECONDS:.0f} s"
        hint = known.hint if known else _HINTS.get(name, "")
        code = known.code if known else ErrorCode.HOST_UNREACHABLE
        seconds = time.monotonic() - began
        return HostCheck(name=name, verdict="fail", detail=said, hint=hint, code=code, seconds=seconds)
    return HostCheck(name=name, verdict="ok", detail=detail, seconds=time.monotonic() - began)


_HINTS = {
    "dns": "Check the spelling; or register the host by its IP address.",
    "tcp": "Is the machine on, the port right, a firewall between? `ssh -p PORT USER@HOST` from the platform's machine tells more.",
}


async def _dns(address: str) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(address, None)
    return ", ".join(sorted({str(entry[4][0]) for entry in found})[:4])


async def _tcp(address: str, port: int, *, banner: bool) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        if not banner:
            return f"port {port} answers"
        line = (await reader.readline()).decode(errors="replace").strip()
    finally:
        writer.close()
    if not line.startswith("SSH-"):
        raise LtpError(
            ErrorCode.HOST_UNREACHABLE,
            f"Port {port} answers, but not with an SSH greeting ({line[:60]!r}).",
            "Another service listens there; give the port of sshd with --port.",
        )
    return line[:120]


async def carry_out_test(held: Held, fleet: Fleet) -> None:
    """A test that was asked for: its report grows step by step, and its end is said."""
    request = HostTestRequested.model_validate(held.work.payload)
    rows = await hosts_store.all_hosts(fleet.database.engine, request.host_id)
    if not rows:
        return  # Removed meanwhile, and its reports with it.
    backend = fleet.open(rows[0])
    assert isinstance(backend, SshBackend | RayBackend)
    steps = examine(backend, Access.model_validate(rows[0]["access"]), request.host_id)
    await report(fleet, (request.host_id, request.report_id), backend, steps, HostTested)
