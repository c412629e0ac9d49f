"""What a listening socket needs that the libraries which serve on it leave out."""

from __future__ import annotations

import socket


def answer_at_once(listening: socket.socket) -> None:
    """Connections of this socket send what they have, rather than wait 40 ms for the reader's acknowledgement of a first part.

    asyncio sees to it by itself, but not for sockets of protocol 0, which is what uvicorn and `socket.socket()` make.
    """
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
