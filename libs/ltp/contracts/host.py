"""Machines that training can run on."""

from __future__ import annotations

from typing import Literal

from ltp.contracts.event import Event
from ltp.contracts.values import Device


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
