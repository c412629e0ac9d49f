"""Registered hosts: told how they are reached, tested, trusted anew, and taken away. Secrets go in and never come out."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Literal, Self
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from ltp.bus.rpc import ask
from ltp.contracts.host import HostList, HostsRequest
from ltp.contracts.host_access import (
    Access,
    AccessList,
    AccessRequest,
    AccessView,
    Fingerprint,
    HostName,
    HostRegistered,
    HostRemoved,
    HostReport,
    HostSetupRequested,
    HostTestRequested,
    HostTrusted,
    Labels,
    ReportAnswer,
    ReportQuestion,
    SecretKind,
    Verification,
    VerifyQuestion,
    secret_name,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.secrets import Secrets
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from services.gateway.access import Serving

router = APIRouter(tags=["hosts"])

HostId = Annotated[str, Path(max_length=255)]
DryRun = Annotated[bool, Query(description="Say what would happen, and change nothing.")]
_TEST_SECONDS, _BEGIN_SECONDS = 120.0, 15.0
_SECRETS = ("password", "private_key", "token")
_Secret = Annotated[SecretStr | None, Field(max_length=32_768)]


class NewHost(Access):
    """A host to register. One secret at most: a password or a private key (ssh), a token (ray)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host_id: HostName
    labels: Labels = Field(default_factory=dict[str, str])
    password: _Secret = None
    private_key: _Secret = None
    passphrase: _Secret = None
    token: _Secret = None
    # Change how a host is reached that is registered already.
    replace: bool = False

    @model_validator(mode="after")
    def _has_one_fitting_secret(self) -> Self:
        given = [name for name in _SECRETS if getattr(self, name) is not None]
        fitting = {"token"} if self.backend == "ray" else {"password", "private_key"}
        if len(given) > 1 or not fitting.issuperset(given):
            raise ValueError(f"give one of {' and '.join(sorted(fitting))}, and no other secret")
        if self.backend == "ssh" and not given:
            raise ValueError("an SSH host needs a password or a private key")
        key = self.private_key.get_secret_value() if self.private_key else None
        if key is not None and "PRIVATE KEY-----" not in key:
            raise ValueError("private_key is not a private key (its file begins with -----BEGIN ... PRIVATE KEY-----)")
        return self

    def access(self) -> Access:
        """How it is reached, without what is secret."""
        return Access.model_validate({name: getattr(self, name) for name in Access.model_fields})

    def secret(self) -> tuple[SecretKind, str | None]:
        """Which secret was given, and what of it is stored."""
        for kind in _SECRETS:
            value: SecretStr | None = getattr(self, kind)
            if value is not None:
                phrase = self.passphrase.get_secret_value() if self.passphrase else None
                stored = json.dumps({"value": value.get_secret_value(), "passphrase": phrase})
                return kind, stored  # type: ignore[return-value]
        return "none", None


class Trust(BaseModel):
    """The key that a host is known by from now on."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: Fingerprint


@router.post("/hosts", status_code=202)
async def register_host(host: NewHost, runtime: Serving, response: Response, dry_run: DryRun = False) -> AccessView:
    """Register a host by how it is reached. It is looked at within a second or so; `POST /hosts/{host}/test` says what is wrong."""
    kind, stored = host.secret()
    view = AccessView(host_id=host.host_id, access=host.access(), secret=kind)
    await _require_free(runtime, host)
    if dry_run:
        return view
    secrets = Secrets.of(runtime.database.engine, runtime.settings.root())
    async with runtime.database.unit() as unit:
        if stored is not None:
            await secrets.put(unit, secret_name(host.host_id), stored, "default")
        event = HostRegistered(host_id=host.host_id, access=host.access(), labels=host.labels, secret=kind)
        unit.emit(event, about=host.host_id)
    response.headers["Location"] = f"/api/v1/hosts/{quote(host.host_id)}"
    return view


async def _require_free(runtime: Runtime, host: NewHost) -> None:
    registered = await _access(runtime, host.host_id)
    if registered and not host.replace:
        hint = "Send replace=true (`--replace`) to change how it is reached, or remove it first."
        raise LtpError(ErrorCode.CONFLICT, f"The host {host.host_id} is registered already.", hint)
    if not registered:
        found = await ask(runtime.client, "scheduler", "hosts", HostsRequest(host_id=host.host_id), HostList)
        if found.hosts and found.hosts[0].seen_at is not None:
            message = f"{host.host_id} is the name of a machine that runs a runner of its own."
            raise LtpError(ErrorCode.CONFLICT, message, "Give the host another name.")


@router.delete("/hosts/{host_id}", status_code=202)
async def remove_host(host_id: HostId, runtime: Serving, dry_run: DryRun = False) -> AccessView:
    """Take a registered host away, with its secret. Refused while work holds its devices; what lies on it stays there."""
    view = await _registered(runtime, host_id)
    found = await ask(runtime.client, "scheduler", "hosts", HostsRequest(host_id=host_id), HostList)
    if any(host.holdings for host in found.hosts):
        message = f"Work holds devices of {host_id}."
        hint = f"`ltp host cordon {host_id}` and wait, cancel its jobs, or `ltp host give-up {host_id}` first."
        raise LtpError(ErrorCode.CONFLICT, message, hint)
    if not dry_run:
        secrets = Secrets.of(runtime.database.engine, runtime.settings.root())
        async with runtime.database.unit() as unit:
            if view.secret != "none":  # noqa: S105 - a kind
                await secrets.remove(unit, secret_name(host_id))
            unit.emit(HostRemoved(host_id=host_id), about=host_id)
    return view


@router.post("/hosts/{host_id}/trust", status_code=202)
async def trust_host(
    host_id: HostId, trust: Annotated[Trust, Body()], runtime: Serving, dry_run: DryRun = False
) -> AccessView:
    """Say that this is the host's key from now on. At the next contact it must show a key with this fingerprint."""
    view = await _registered(runtime, host_id)
    if view.access.backend != "ssh":
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{host_id} is reached without SSH and has no host key.", "Nothing to do."
        )
    if not dry_run:
        async with runtime.database.unit() as unit:
            unit.emit(HostTrusted(host_id=host_id, fingerprint=trust.fingerprint), about=host_id)
    return view


@router.post("/hosts/{host_id}/test", status_code=202)
async def test_host(
    host_id: HostId,
    runtime: Serving,
    wait: Annotated[bool, Query(description="Answer when the test is over, with all that it found.")] = False,
) -> HostReport:
    """Test the way to a host, step by step. The report is stored, and can be read while it grows."""
    await _registered(runtime, host_id)
    report_id = new_id()
    async with runtime.database.unit() as unit:
        unit.emit(HostTestRequested(host_id=host_id, report_id=report_id), about=host_id)
    return await _begun(runtime, host_id, report_id, wait=wait)


async def _begun(runtime: Runtime, host_id: str, report_id: UUID, *, wait: bool = False) -> HostReport:
    """The report as soon as there is one, or when it is whole."""
    deadline = time.monotonic() + (_TEST_SECONDS if wait else _BEGIN_SECONDS)
    while time.monotonic() < deadline:
        report = (await _report(runtime, host_id, report_id)).report
        if report is not None and (report.state == "done" or not wait):
            return report
        await asyncio.sleep(0.1)
    hint = f"Read it later: GET /hosts/{host_id}/report?report_id={report_id}"
    raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, f"The report of {host_id} is not there yet.", hint)


class Setup(BaseModel):
    """How a host is made ready."""

    model_config = ConfigDict(extra="forbid")

    # Left out: as the host's GPUs say.
    role: Literal["training", "gpu"] | None = None
    # A folder made by `ltp setup bundle`, on the machine of the platform.
    bundle: Annotated[str | None, Field(pattern=r"^/.*$", max_length=4096)] = None
    dry_run: bool = False


@router.post("/hosts/{host_id}/setup", status_code=202)
async def set_up_host(host_id: HostId, setup: Annotated[Setup, Body()], runtime: Serving) -> HostReport:
    """Make a host ready to train: code, environment and packages from the lock of its role. Read the report while it grows."""
    view = await _registered(runtime, host_id)
    if view.access.backend != "ssh":
        message = f"{host_id} is a Ray cluster; its nodes are set up by whoever runs it."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "`ltp verify --host` compares what it has with the lock.")
    report_id = new_id()
    if setup.dry_run:
        return HostReport(report_id=report_id, host_id=host_id, state="done", ok=True, checks=[], started_at=now())
    async with runtime.database.unit() as unit:
        event = HostSetupRequested(host_id=host_id, report_id=report_id, role=setup.role, bundle=setup.bundle)
        unit.emit(event, about=host_id)
    return await _begun(runtime, host_id, report_id)


@router.get("/hosts/{host_id}/verify")
async def verify_host(
    host_id: HostId, runtime: Serving, role: Literal["training", "gpu"] | None = None
) -> Verification:
    """Compare the packages of a host's training environment with the lock of its role."""
    await _registered(runtime, host_id)
    question = VerifyQuestion(host_id=host_id, role=role)
    return await ask(runtime.client, "runner", "verify", question, Verification, timeout=90)


@router.get("/hosts/{host_id}/report")
async def show_report(host_id: HostId, runtime: Serving, report_id: UUID | None = None) -> HostReport:
    """What a test found; the newest, or the one asked for. While `state` is `running` there is more to come."""
    await _registered(runtime, host_id)
    found = (await _report(runtime, host_id, report_id)).report
    if found is None:
        message = f"There is no such report of {host_id}." if report_id else f"{host_id} was never tested."
        raise LtpError(ErrorCode.NOT_FOUND, message, f"`ltp host test {host_id}` makes one.")
    return found


async def _report(runtime: Runtime, host_id: str, report_id: UUID | None) -> ReportAnswer:
    question = ReportQuestion(host_id=host_id, report_id=report_id)
    return await ask(runtime.client, "runner", "report", question, ReportAnswer)


async def _registered(runtime: Runtime, host_id: str) -> AccessView:
    found = await _access(runtime, host_id)
    if not found:
        raise LtpError(
            ErrorCode.NOT_FOUND,
            f"No host {host_id} is registered.",
            "`ltp host list` shows all, `ltp host add` registers one.",
        )
    return found[0]


async def _access(runtime: Runtime, host_id: str | None) -> list[AccessView]:
    return (await ask(runtime.client, "runner", "access", AccessRequest(host_id=host_id), AccessList)).hosts


async def access_by_host(runtime: Runtime, host_id: str | None = None) -> dict[str, AccessView]:
    """How registered hosts are reached; nothing while the runner is down, for the list of hosts does not depend on it."""
    try:
        return {view.host_id: view for view in await _access(runtime, host_id)}
    except LtpError as error:
        if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
            raise
        return {}
