"""The text of a YAML file named on the command line, and what to call it in errors; `-` is standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError


def yaml_text(path: Path) -> tuple[str, str]:
    """(text, source). Raises NOT_FOUND when it cannot be read, INVALID_YAML when it is no UTF-8."""
    source = "standard input" if str(path) == "-" else str(path)
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text()), source
    except OSError as error:
        raise LtpError(ErrorCode.NOT_FOUND, f"{path} cannot be read ({error.strerror}).", "Give a file.") from error
    except UnicodeDecodeError as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
