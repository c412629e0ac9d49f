"""Keys of endpoints, read by name from files below DATA/secrets at the moment of use, and kept nowhere else."""

from __future__ import annotations

from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError

# The platform's own: sending one to an endpoint that a user names would give it away.
_OWN = frozenset({"token", "postgres", "postgres_superuser", "keyring", "superuser", "metrics_token"})


def read_key(root: Path, name: str) -> str:
    """The key stored under a name. Raises LtpError SECRET_NOT_FOUND, and INVALID_REQUEST for the platform's own."""
    if name in _OWN:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"The secret {name!r} is the platform's own.", "Name another.")
    folder = (root / "secrets").resolve()
    path = (folder / name).resolve()
    try:
        # A name is no path, and a link out of the folder is none of our secrets.
        key = path.read_text().strip() if path.parent == folder else ""
    except (OSError, UnicodeDecodeError):
        key = ""
    if not key or not key.isprintable() or not key.isascii():
        hint = f"Write the key into {folder / name}, readable by you alone (chmod 600)."
        raise LtpError(ErrorCode.SECRET_NOT_FOUND, f"There is no usable secret {name!r}.", hint)
    return key
