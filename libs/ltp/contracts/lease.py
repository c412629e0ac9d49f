"""Exclusive rights to devices."""

from __future__ import annotations

from uuid import UUID

from ltp.contracts.event import Event
from ltp.contracts.values import Placement


class LeaseGranted(Event, subject="ltp.lease.v1.granted", speaker="scheduler"):
    """Devices were given to a piece of work until it ends."""

    lease_id: UUID
    work_id: UUID
    kind: str
    placement: Placement


class LeaseReleased(Event, subject="ltp.lease.v1.released", speaker="scheduler"):
    """The devices are free again."""

    lease_id: UUID
    work_id: UUID
