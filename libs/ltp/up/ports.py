"""Which loopback ports the platform takes, so that two platforms, or another program, never meet on one."""

from __future__ import annotations

import errno
import os
import socket
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError
from ltp.up import procfs

LOOPBACK = "127.0.0.1"
DEFAULT_GATEWAY_PORT = 8700
# Below the kernel's ephemeral range: a client's outgoing connection can then never sit on a port
# that a service is about to listen on, or comes back to after a restart.
FIRST, COUNT = 20_000, 12_000


def choose_ports(names: Iterable[str], data_dir: Path, taken: Collection[int] = ()) -> dict[str, int]:
    """Give each name a free port; the search starts at a place of the directory's own, so ports survive restarts."""
    offset = zlib.crc32(os.fsencode(data_dir)) % COUNT
    candidates = (FIRST + (offset + step) % COUNT for step in range(COUNT))
    chosen = {name: next((port for port in candidates if port not in taken and is_free(port)), 0) for name in names}
    if 0 in chosen.values():
        raise LtpError(ErrorCode.PORT_TAKEN, f"No free port from {FIRST} to {FIRST + COUNT}.", "Stop what holds them.")
    return chosen


def choose_gateway_port(asked: int | None, data_dir: Path) -> int:
    """Take the port asked for, or the default one if free, or a free one."""
    if asked is not None:
        require_free(asked)
        return asked
    return DEFAULT_GATEWAY_PORT if is_free(DEFAULT_GATEWAY_PORT) else choose_ports(["gateway"], data_dir)["gateway"]


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    return _bind_error(port) is None


def require_free(port: int) -> None:
    """Raise what stands in the way of listening on the port, naming the holder where it can be seen."""
    problem = _bind_error(port)
    if problem is None:
        return
    if problem != errno.EADDRINUSE:
        raise LtpError(
            ErrorCode.INVALID_REQUEST,
            f"Port {port} cannot be used: {os.strerror(problem)}.",
            "Choose a port from 1024 to 65535.",
        )
    holder = procfs.port_holder(port)
    by = f" by {holder.name} (pid {holder.pid})" if holder else ""
    raise LtpError(
        ErrorCode.PORT_TAKEN, f"Port {port} is taken{by}.", "Stop it, choose another --port, or leave --port out."
    )


def _bind_error(port: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's TIME_WAIT is no holder
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            return error.errno
    return None
