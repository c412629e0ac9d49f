"""Tells an outage of the database, which passes, from a fault of ours, which somebody must mend."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Classes of SQLSTATE: the connection, and a server that ends or is not back yet.
_PASSING = ("08", "57P")


def sqlstate(error: DBAPIError) -> str:
    """What the server called it; nothing where the driver alone speaks."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def is_outage(error: BaseException) -> bool:
    """Whether the database went, or is not back yet."""
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        # A connection cut in the middle of a statement is told by the driver, without a class.
        return isinstance(error, OperationalError | InterfaceError) or not state or state.startswith(_PASSING)
    return isinstance(error, ConnectionError | PoolTimeout)
