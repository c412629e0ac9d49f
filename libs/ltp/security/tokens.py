"""The file in which a user of this machine keeps a bearer token, readable by its owner alone."""

from __future__ import annotations

from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError


def read_token(path: Path) -> str:
    """Read a token. Raises UNAUTHENTICATED when there is none to read."""
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise LtpError(
            ErrorCode.UNAUTHENTICATED,
            f"No token could be read from {path} ({error.strerror}).",
            "Start the platform with `ltp up`, or set LTP_TOKEN.",
        ) from error
    if not token:
        raise LtpError(ErrorCode.UNAUTHENTICATED, f"{path} is empty.", "Remove it and start the platform again.")
    return token
