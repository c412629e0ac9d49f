"""Pages of a table in any declared order: what follows an item is found by its value and id, so that no page shifts another."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Select, func, literal, tuple_

from ltp.contracts.pages import PageQuery, Place
from ltp.core.errors import ErrorCode, LtpError

S = TypeVar("S", bound=Select[Any])

# Where nothing stands: what has not ended sorts as the last to end, what was not counted below all counts.
_EMPTY: dict[type, Any] = {datetime: datetime(9999, 12, 31, tzinfo=UTC), str: "", int: -1, float: -1.0}
_LARGEST = 2**63


def in_order(query: S, page: PageQuery, identity: ColumnElement[Any], fields: Mapping[str, ColumnElement[Any]]) -> S:
    """The page of a query. `created_at` needs no field: ids (UUIDv7) sort by time. Raises LtpError: INVALID_REQUEST."""
    name, falls = page.sort.removeprefix("-"), page.sort.startswith("-")
    if name != "created_at" and name not in fields:
        known = ", ".join(sorted({"created_at", *fields}))
        message = f"{page.sort[:100]!r} is nothing to sort by."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Sort by {known}, or by -FIELD for the largest first.")
    by = [] if name == "created_at" else [fields[name]]
    keys = [*map(_filled, by), identity]
    query = query.order_by(*(key.desc() if falls else key.asc() for key in keys)).limit(page.limit)
    if page.after is None:
        return query
    edge = tuple_(*(literal(_value(column, page.after), column.type) for column in by), literal(page.after.item_id))
    return query.where(tuple_(*keys) < edge if falls else tuple_(*keys) > edge)


def _filled(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column with its nothings filled; one that has none is left as it is, for its index."""
    if isinstance(column, Column) and not column.nullable:
        return column
    return func.coalesce(column, literal(_EMPTY[column.type.python_type], column.type))


def _value(column: ColumnElement[Any], place: Place) -> Any:
    """What a place says, as the column has it; a client may have made it up."""
    kind, value = column.type.python_type, place.value
    if value is None:
        return _EMPTY[kind]
    try:
        if kind is datetime and isinstance(value, str):
            return _aware(datetime.fromisoformat(value))
        if kind is str and isinstance(value, str) and "\0" not in value:
            return value.encode().decode()  # Half a character is refused here, not by the database.
        if kind is int and isinstance(value, int) and abs(value) < _LARGEST:
            return value
        if kind is float and isinstance(value, int | float):
            return float(value)
    except (ValueError, OverflowError):
        pass  # Refused below.
    raise LtpError(ErrorCode.INVALID_REQUEST, "The cursor is of another list.", "Send back the cursor you got.")


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
