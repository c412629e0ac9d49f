"""Machines that training can run on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from ltp.contracts.event import Event, Value
from ltp.contracts.host_access import AccessView
from ltp.contracts.values import Device

LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,63}$")]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=64)]


class HostSeen(Event, subject="ltp.host.v1.seen", speaker="runner"):
    """A host answered and said what it has. Repeated while it lives."""

    host_id: str
    name: str
    backend: Literal["local"]
    devices: list[Device]
    memory_bytes: int
    cpus: int
    # The package flash-attn is installed for training: sequences can be packed, and spread over devices.
    flash_attention: bool = False
    # How the platform reaches it; `backend` is all that the first version of this event could say.
    reached_by: str = "local"


class HostLabelled(Event, subject="ltp.host.v1.labelled", speaker="gateway"):
    """An operator said what a host is like; recipes ask for labels. These are all its labels from now on."""

    host_id: str
    labels: Labels


class HostCordoned(Event, subject="ltp.host.v1.cordoned", speaker="gateway"):
    """An operator asked that nothing new be placed on a host. What runs there goes on."""

    host_id: str


class HostUncordoned(Event, subject="ltp.host.v1.uncordoned", speaker="gateway"):
    """An operator gave a host back to the scheduler."""

    host_id: str


class HostGivenUp(Event, subject="ltp.host.v1.given-up", speaker="gateway"):
    """An operator knows that a host will not come back: its work is given to others at once."""

    host_id: str


class HostLost(Event, subject="ltp.host.v1.lost", speaker="scheduler"):
    """A host stayed silent for so long that its work is given to others; what still runs there is fenced when it is back."""

    host_id: str
    seen_at: datetime


class HostsRequest(Value):
    """The question to the scheduler which hosts there are and who holds their devices; of one host or of all."""

    host_id: str | None = None


class Holding(Value):
    """Devices that a piece of work holds."""

    work_id: UUID
    job_id: UUID | None
    priority: int
    device_kind: Literal["cpu", "gpu"]
    device_indexes: list[int]
    granted_at: datetime
    fence: int
    # Whether the holder was asked to save and leave.
    leaving: bool = False


class HostView(Value):
    """A host as the scheduler sees it."""

    host_id: str
    state: Literal["ready", "silent", "cordoned"]
    seen_at: datetime | None
    memory_bytes: int
    devices: list[Device]
    labels: dict[str, str]
    holdings: list[Holding]
    # As HostSeen says it; on what is not `local` only training runs.
    reached_by: str = "local"
    # How a registered host is reached, and what is wrong with it; None for a machine that runs a runner of its own.
    access: AccessView | None = None


class HostList(Value):
    """All hosts, by name."""

    hosts: list[HostView]
