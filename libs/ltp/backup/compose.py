"""The secrets of a set-up under compose: drawn once, kept in .env and secrets/, never in a file of the repository."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from ltp.bus.permissions import OPERATOR, SYSTEM
from ltp.contracts import SERVICES
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import new_token
from ltp.security.private_file import write_private

# Who has a password on the bus: each service, who operates it, and who has NATS read its users anew.
BUS_USERS = (*SERVICES, OPERATOR, SYSTEM)


def password_variable(user: str) -> str:
    """The variable of .env that holds the password of a user of NATS."""
    return f"LTP_NATS_{user.upper()}_PASSWORD"


# The variables of .env that hold a secret; docker-compose.yml refuses to start without them.
VARIABLES = (
    "LTP_POSTGRES_PASSWORD",
    "LTP_GRAFANA_PASSWORD",
    "LTP_GRAFANA_DB_PASSWORD",
    "LTP_MINIO_USER",
    "LTP_MINIO_PASSWORD",
    *map(password_variable, BUS_USERS),
)


def make_secrets(folder: Path, *, dry_run: bool) -> list[str]:
    """Make what is missing; the names of what was."""
    if not folder.is_dir():
        raise LtpError(ErrorCode.INVALID_REQUEST, f"There is no folder {folder}.", "Name that of docker-compose.yml.")
    missing = [name for name in VARIABLES if name not in _known(folder / ".env")]
    made = [f".env: {name}" for name in missing]
    if missing and not dry_run:
        _append(folder / ".env", "".join(f"{name}={secrets.token_hex(24)}\n" for name in missing))
    makers: dict[str, Callable[[Path], object]] = {
        # Read by users of containers, who are nobody here: the folder, which no container sees, keeps others out.
        "token": lambda path: write_private(path, new_token()[0], 0o644),
        "metrics_token": lambda path: write_private(path, secrets.token_urlsafe(32), 0o644),
    }
    for name, make in makers.items():
        path = folder / "secrets" / name
        if path.exists():
            continue
        made.append(f"secrets/{name}")
        if not dry_run:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            make(path)
    return made


def _known(path: Path) -> set[str]:
    if not path.exists():
        return set()
    pairs = (line.partition("=") for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    return {name.strip() for name, _, value in pairs if value.strip()}


def _append(path: Path, text: str) -> None:
    known = path.read_text() if path.exists() else ""
    if known and not known.endswith("\n"):
        known += "\n"
    write_private(path, known + text)
