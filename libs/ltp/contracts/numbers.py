"""Integers beyond 64 bits, which JSON can carry and no listener, database or other language can hold: refused where they are said."""

from __future__ import annotations

import json
import re

from ltp.core.errors import ErrorCode, LtpError

_LARGEST = 2**63
# Whatever is so long may be too large; it may also stand in a text, which only a parser tells.
_LONG = re.compile(r"\d{19}")


def refuse_huge(text: str) -> str:
    """The JSON as it is. Raises LtpError: INVALID_REQUEST where one of its integers does not fit into 64 bits."""
    if _LONG.search(text) is not None:
        json.loads(text, parse_int=_fitting)
    return text


def _fitting(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= _LARGEST:
        message = f"The number {digits[:40]}{'...' if len(digits) > 40 else ''} is too large."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Whole numbers lie between -2^63 and 2^63.")
    return int(digits)
