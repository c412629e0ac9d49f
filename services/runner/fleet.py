"""The hosts that this runner can reach: this machine, and those that operators registered; one backend for each."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from ltp.contracts.host_access import Access, HostPinned, secret_name
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.secrets import Secrets
from ltp.store.database import Database
from services.runner import hosts_store
from services.runner.backends import Backend
from services.runner.backends.gang import Gang
from services.runner.backends.local import LocalBackend
from services.runner.backends.ray import RayBackend
from services.runner.backends.ssh import SshBackend
from services.runner.settings import RunnerSettings
from services.runner.ssh.link import Credential, Link, Target


class Fleet:
    """Backends by host. Connections are made when they are needed, and kept."""

    def __init__(self, database: Database, settings: RunnerSettings) -> None:
        self.database = database
        self.settings = settings
        self.own_id = settings.host_id()
        self.own = LocalBackend(settings.root())
        self._remote: dict[str, tuple[datetime, Backend]] = {}
        # How the others of a gang reach a host.
        self._addresses = {self.own_id: socket.gethostname()}

    def host_ids(self) -> list[str]:
        """This machine and every registered host."""
        return [self.own_id, *self._remote]

    def remote_ids(self) -> list[str]:
        """Every registered host."""
        return list(self._remote)

    def backend(self, host_id: str) -> Backend:
        """The way to a host. Raises HOST_UNREACHABLE for one that is registered no more."""
        if host_id == self.own_id:
            return self.own
        if host_id not in self._remote:
            message = f"The host {host_id} is not registered, and is not this machine ({self.own_id})."
            hint = "`ltp host add` registers it again; what runs there goes on."
            raise LtpError(ErrorCode.HOST_UNREACHABLE, message, hint)
        return self._remote[host_id][1]

    def of(self, placement: Placement) -> Backend:
        """The way to where work was placed: one host, or several as one."""
        members = [self.backend(share.host_id) for share in placement.shares()]
        return members[0] if len(members) == 1 else Gang(members, self._addresses.get(placement.host_id, "127.0.0.1"))

    async def refresh(self) -> list[str]:
        """Take over what operators changed; returns the hosts that are new, or reached another way than before."""
        rows = {row["host_id"]: row for row in await hosts_store.all_hosts(self.database.engine)}
        gone = [name for name, (at, _) in self._remote.items() if name not in rows or rows[name]["changed_at"] != at]
        for name in gone:
            await self._remote.pop(name)[1].close()
        fresh = [name for name in rows if name not in self._remote]
        for name in fresh:
            self._addresses[name] = str(rows[name]["access"]["address"])
            self._remote[name] = (rows[name]["changed_at"], self.open(rows[name]))
        return fresh

    def open(self, row: hosts_store.Row) -> Backend:
        """A backend of its own for a registered host."""
        backend = self._opened(row)
        backend.me = self.own_id
        return backend

    def _opened(self, row: hosts_store.Row) -> SshBackend | RayBackend:
        access = Access.model_validate(row["access"])
        root = row["root"] or access.work_dir
        if access.backend == "ray":
            token = self._credential(row) if row["secret"] != "none" else _nothing  # noqa: S105 - no secret
            return RayBackend(row["host_id"], access, token, self.settings)
        link = Link(
            _target(row, access), self._credential(row), lambda key, shown: self._pin(row["host_id"], key, shown)
        )
        # What was found at the last look is only kept where the operator named none: an environment may appear.
        return SshBackend(link, root, access.python)

    def _credential(self, row: hosts_store.Row) -> Callable[[], Awaitable[Credential | None]]:
        async def read() -> Credential | None:
            if row["secret"] == "none":  # noqa: S105 - no secret
                return None
            secrets = Secrets.of(self.database.engine, self.settings.root())
            found: dict[str, Any] = json.loads(await secrets.read(secret_name(row["host_id"])))
            return Credential(row["secret"], found["value"], found.get("passphrase"))

        return read

    async def _pin(self, host_id: str, key: str, fingerprint: str) -> None:
        async with self.database.unit() as unit:
            if await hosts_store.pin(unit, host_id, key, fingerprint):
                structlog.get_logger().info("pinned a host's key", host_id=host_id, fingerprint=fingerprint)
                unit.emit(HostPinned(host_id=host_id, fingerprint=fingerprint), about=host_id)
                return
        [row] = await hosts_store.all_hosts(self.database.engine, host_id) or [None]
        if row is None or row["fingerprint"] != fingerprint:
            # Another runner pinned another key in the same moment, or the host was removed.
            message = f"{host_id} showed the key {fingerprint}, and another one is pinned."
            raise LtpError(ErrorCode.HOST_KEY_CHANGED, message, f"`ltp host test {host_id}` tells more.")

    async def close(self) -> None:
        """Hang up everywhere; what runs goes on."""
        for _, backend in self._remote.values():
            await backend.close()


async def _nothing() -> None:
    return None


def _target(row: hosts_store.Row, access: Access) -> Target:
    assert access.user is not None
    return Target(row["host_id"], access.address, access.port, access.user, row["pinned_key"], access.host_key)


def located(path: str, host_id: str) -> tuple[str, Path]:
    """The host and the path of a location: `ssh://HOST/path`, or a plain path on the host that asks."""
    if "://" not in path:
        return host_id, Path(path)
    host, _, rest = path.partition("://")[2].partition("/")
    return host, Path(f"/{rest}")
