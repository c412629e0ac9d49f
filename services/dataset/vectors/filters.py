"""Conditions on any field of a row, as data: never text that a query language would read."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltp.contracts.search import Condition
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import Mask

_COMPARE = {
    "eq": pc.equal,
    "ne": pc.not_equal,
    "lt": pc.less,
    "le": pc.less_equal,
    "gt": pc.greater,
    "ge": pc.greater_equal,
}


def mask_of(table: pa.Table, conditions: list[Condition]) -> Mask | None:
    """Which rows meet all conditions; None without conditions. A null meets only `missing`.

    Raises LtpError: FIELD_UNKNOWN, INVALID_REQUEST when a value does not fit its field's type.
    """
    if not conditions:
        return None
    mask = np.ones(table.num_rows, dtype=np.bool_)
    for condition in conditions:
        mask &= _one(table, condition)
    return mask


def fields_of(table: pa.Table) -> list[str]:
    """The names a condition may use: a user's field also by its short name, where no column has that."""
    names = list(table.column_names)
    return names + [n.removeprefix("fields.") for n in names if n.startswith("fields.") and n[7:] not in names]


def _one(table: pa.Table, condition: Condition) -> Mask:
    column = _column(table, condition.field)
    if condition.op == "missing":
        return _bools(pc.is_null(column))
    if condition.op == "in":
        values: list[Any] = condition.value if isinstance(condition.value, list) else [condition.value]
        typed = pa.array([_typed(v, column.type, condition) for v in values], column.type)
        return _bools(pc.fill_null(pc.is_in(column, value_set=typed), fill_value=False))
    if condition.op == "contains":
        if not isinstance(condition.value, str):
            raise _misfit(condition, column.type)
        return _contains(column, condition)
    value = pa.scalar(_typed(condition.value, column.type, condition), column.type)
    return _bools(pc.fill_null(_COMPARE[condition.op](column, value), fill_value=False))


def _contains(column: pa.ChunkedArray, condition: Condition) -> Mask:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        found = pc.match_substring(column, str(condition.value), ignore_case=True)
        return _bools(pc.fill_null(found, fill_value=False))
    if pa.types.is_list(column.type):
        rows: list[list[Any] | None] = column.to_pylist()
        return np.fromiter((row is not None and condition.value in row for row in rows), np.bool_, len(rows))
    raise _misfit(condition, column.type)


def _column(table: pa.Table, field: str) -> pa.ChunkedArray:
    for name in (field, f"fields.{field}"):
        if name in table.column_names:
            return table.column(name)
    # A struct's member, written with dots.
    head, _, rest = field.partition(".")
    while rest:
        for name in (head, f"fields.{head}"):
            if name in table.column_names and pa.types.is_struct(table.column(name).type):
                try:
                    return pc.struct_field(table.column(name), rest.split("."))
                except (pa.ArrowException, KeyError):
                    break
        more, _, rest = rest.partition(".")
        head = f"{head}.{more}"
    known = ", ".join(sorted(fields_of(table)))
    shown = re.sub(r"[^\x20-\x7e]", "?", field)[:100]
    raise LtpError(ErrorCode.FIELD_UNKNOWN, f"Rows of this version have no field {shown!r}.", f"They have: {known}.")


def _typed(value: Any, kind: pa.DataType, condition: Condition) -> Any:
    """A JSON value, or a word of a command line, as the field's type has it."""
    try:
        if pa.types.is_boolean(kind):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if pa.types.is_integer(kind):
            return int(str(value))  # through text: a fraction is an error, and a large number stays exact
        if pa.types.is_floating(kind):
            return float(value)
        if pa.types.is_string(kind) and not isinstance(value, list | dict):
            return str(value)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _misfit(condition, kind) from error
    raise _misfit(condition, kind)


def _misfit(condition: Condition, kind: pa.DataType) -> LtpError:
    shown = str(condition.value)[:60]
    message = f"{condition.field} {condition.op} {shown!r}: the field is of type {kind}."
    return LtpError(ErrorCode.INVALID_REQUEST, message, "Give a value of that type, or another comparison.")


def _bools(column: Any) -> Mask:
    found: Mask = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
    return found
