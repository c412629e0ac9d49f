"""Typed values in the grammar of Hydra's command line, so that no path or name changes an override's meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError

Setting = bool | int | float | str | Path | None | list["Setting"] | dict[str, "Setting"]


def render(value: Setting) -> str:
    """`value` as Hydra reads it back: strings always quoted, interpolations always literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list):
        return "[" + ",".join(render(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
    return _quoted(str(value))


def overrides(keys: Mapping[str, str], settings: Mapping[str, Setting]) -> Iterable[str]:
    """One `KEY=VALUE` per setting, in order. Raises KeyError for a setting this version has no key for."""
    return (f"{keys[name]}={render(value)}" for name, value in settings.items())


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise LtpError(ErrorCode.INVALID_RECIPE, f"{value} is no number to train with.", "Use a finite one.")
    return repr(value)


def _quoted(text: str) -> str:
    # A backslash is literal except before what it escapes: `${` for OmegaConf, a quote or the end for Hydra.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), literal) + "'"
