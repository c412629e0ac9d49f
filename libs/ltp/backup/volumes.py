"""What the volumes of a set-up under compose hold before its servers start: the keyring, and who NATS lets in.

Run by the service `prepare` of docker-compose.yml, each time the stack comes up; what is there and still right stays.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import bcrypt

from ltp.backup.compose import BUS_USERS, password_variable
from ltp.bus.permissions import SYSTEM, BusUser, rendered, service_users
from ltp.bus.users_file import SERVICES_PART, digest_of, read_part, write_part
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.keyring import make_keyring
from ltp.security.private_file import write_private

SYSTEM_PART, SYSTEM_USERS = "system", "system.conf"


def fill(data: Path, bus: Path, environ: Mapping[str, str]) -> None:
    """Make what is missing. Raises INVALID_REQUEST for a password that was not drawn."""
    keyring = data / "secrets" / "keyring"
    keyring.parent.mkdir(mode=0o700, exist_ok=True)
    make_keyring(keyring)
    known = {user.name: user.digest for part in (SERVICES_PART, SYSTEM_PART) for user in read_part(bus, part)}
    digests = {name: _digest(name, environ, known.get(name)) for name in BUS_USERS}
    write_part(bus, SERVICES_PART, service_users(digests))
    system = [BusUser(SYSTEM, digests[SYSTEM], (">",), (">",))]
    write_part(bus, SYSTEM_PART, system)
    write_private(bus / SYSTEM_USERS, rendered(system))


def _digest(user: str, environ: Mapping[str, str], known: str | None) -> str:
    """The hash that is there, where it is the password's: another one would hang up on the service when NATS reads it."""
    variable = password_variable(user)
    password = environ.get(variable, "")
    if not password:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{variable} is empty.", "`ltp init` draws it into .env.")
    if known is not None and bcrypt.checkpw(password.encode(), known.encode()):
        return known
    return digest_of(password)


if __name__ == "__main__":
    fill(Path("/data"), Path("/bus"), os.environ)
