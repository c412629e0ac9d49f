"""Hosts that are reached over a network: how to get there, who may, and what a test of the way found."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Problem

# None of these patterns lets a character through that means something to a shell, to Hydra or to a path walk.
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$")]
_ADDRESSES = {
    "ssh": re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}"),
    "ray": re.compile(r"https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?/?"),
}
User = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$")]
Folder = Annotated[
    str, StringConstraints(pattern=r"^(~|/[A-Za-z0-9._-]+|~/[A-Za-z0-9._-]+)(/[A-Za-z0-9._-]+)*/?$", max_length=200)
]
Interpreter = Annotated[
    str,
    StringConstraints(pattern=r"^(conda:[A-Za-z0-9._-]+|~?/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?)$", max_length=250),
]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Labels = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")],
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,63}$")],
    ],
    Field(max_length=64),
]


SecretKind = Literal["none", "password", "private_key", "token"]


class Access(BaseModel):
    """How a host is reached. Without secrets: those are kept sealed, elsewhere."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    backend: Literal["ssh", "ray"] = "ssh"
    address: Annotated[str, Field(description="ssh: name or IP address; ray: URL of the cluster's dashboard.")]
    port: int = Field(default=22, ge=1, le=65535, description="ssh only.")
    user: User | None = Field(default=None, description="ssh only, and required there.")
    work_dir: Folder = Field(default="~/ltp", description="All that the platform writes on the host lies below it.")
    python: Interpreter | None = Field(
        default=None,
        description="Interpreter, venv or conda prefix, or conda:NAME. Left out: WORK_DIR/env, else python3.",
    )
    # The key the host must show at first contact; left out, the first one shown is pinned.
    host_key: Fingerprint | None = None
    # ray only: start a cluster of this machine's own at this address.
    start_local: bool = False

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        # The address has a pattern of its own for each backend.
        if not _ADDRESSES[self.backend].fullmatch(self.address):
            want = "a host name or an IP address" if self.backend == "ssh" else "http://HOST:PORT"
            raise ValueError(f"address {self.address!r} is not {want}")
        if self.backend == "ssh" and self.user is None:
            raise ValueError("user: an SSH host needs one")
        if any(part == ".." for text in (self.work_dir, self.python or "") for part in text.split("/")):
            raise ValueError("'..' has no place in work_dir or python")
        if self.work_dir.rstrip("/") in {"", "~", "/", "/root", "/home", "/etc", "/usr", "/var", "/tmp"}:  # noqa: S108
            raise ValueError(f"work_dir {self.work_dir} is not a folder of the platform's own")
        return self


class HostRegistered(Event, subject="ltp.host.v1.registered", speaker="gateway"):
    """An operator told how a host is reached; its secret, if any, was sealed into the vault in the same transaction."""

    host_id: HostName
    access: Access
    labels: Labels
    secret: SecretKind = "none"  # noqa: S105 - a kind


class HostRemoved(Event, subject="ltp.host.v1.removed", speaker="gateway"):
    """An operator took a registered host away. What lies on it stays there."""

    host_id: str


class HostTestRequested(Event, subject="ltp.host.v1.test-requested", speaker="gateway"):
    """An operator asked for a test of the way to a host, step by step."""

    host_id: str
    report_id: UUID


class HostTrusted(Event, subject="ltp.host.v1.trusted", speaker="gateway"):
    """An operator says that this is the host's key from now on: the pinned one is forgotten."""

    host_id: str
    fingerprint: Fingerprint


class HostPinned(Event, subject="ltp.host.v1.pinned", speaker="runner"):
    """The key that a host showed, and that it must show from now on."""

    host_id: str
    fingerprint: str


class HostCheck(Value):
    """One step of a test."""

    name: str
    verdict: Literal["ok", "warn", "fail", "skipped"]
    detail: str
    # What to do about it.
    hint: str = ""
    # The code that a run would fail with.
    code: str | None = None
    seconds: float = 0.0


class HostReport(Value):
    """What a test found, step by step; `ok` when no step failed. It grows while the test runs."""

    report_id: UUID
    host_id: str
    state: Literal["running", "done"]
    ok: bool
    checks: list[HostCheck]
    started_at: datetime
    ended_at: datetime | None = None


class HostTested(Event, subject="ltp.host.v1.tested", speaker="runner"):
    """A test of the way to a host is over."""

    host_id: str
    report_id: UUID
    ok: bool
    # Names of the steps that failed.
    failed: list[str]


class HostSetupRequested(Event, subject="ltp.host.v1.setup-requested", speaker="gateway"):
    """An operator asked that a host be made ready to train: an environment from the lock of its role."""

    host_id: str
    report_id: UUID
    # Left out: as the host's GPUs say.
    role: Literal["training", "gpu"] | None = None
    # A folder of wheels on the machine of the platform, for a host without a network.
    bundle: str | None = None


class HostSetUp(Event, subject="ltp.host.v1.set-up", speaker="runner"):
    """A set-up is over; `failed` names the step that ended it."""

    host_id: str
    report_id: UUID
    ok: bool
    failed: list[str]


class VerifyQuestion(Value):
    """The question `verify` to the runner: how a host's packages differ from the lock of a role."""

    host_id: str
    role: Literal["training", "gpu"] | None = None


class PackageDifference(Value):
    """A package that is not as the lock says."""

    name: str
    wanted: str
    found: str | None


class Verification(Value):
    """How an environment compares with a lock."""

    role: str
    digest: str
    packages: int
    python: str
    differences: list[PackageDifference]


class AccessRequest(Value):
    """The question `access` to the runner: how registered hosts are reached; one or all."""

    host_id: str | None = None


class AccessView(Value):
    """A registered host as the runner knows it."""

    host_id: str
    access: Access
    secret: SecretKind = "none"  # noqa: S105 - a kind
    # The pinned key, and the one the host showed at the last look when that was another.
    fingerprint: str | None = None
    shown_fingerprint: str | None = None
    reached_at: datetime | None = None
    # Why it cannot be used at this moment.
    problem: Problem | None = None
    report: HostReport | None = None


class AccessList(Value):
    """Registered hosts, by name."""

    hosts: list[AccessView]


class ReportQuestion(Value):
    """The question `report` to the runner: a test's report; without an id the newest of the host."""

    host_id: str
    report_id: UUID | None = None


class ReportAnswer(Value):
    """The report, or None while the test was not begun or there is none."""

    report: HostReport | None = None


class CheckpointCopyRequest(Value):
    """The question `checkpoint-copy` to the runner: where a checkpoint of another host lies on this machine. Begins the copy."""

    # As ltp.checkpoint.v1.written says it: ssh://HOST/path.
    path: str
    # Without the optimizer's states, which are twice the weights and only needed to resume.
    weights_only: bool = True


class CheckpointCopy(Value):
    """The copy's folder, or None while it is on its way."""

    path: str | None


def secret_name(host_id: str) -> str:
    """Under which the secret of a host is kept; no user can spell it."""
    return f"_host.{host_id}"
