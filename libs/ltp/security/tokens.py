"""Bearer tokens: kept in a file that only its owner reads, compared in constant time."""

from __future__ import annotations

import hmac
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


def matches(given: str, expected: str) -> bool:
    """Compare two tokens without telling by time how much of them agrees."""
    return hmac.compare_digest(given.encode(), expected.encode())
