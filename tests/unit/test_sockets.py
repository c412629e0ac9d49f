"""An answer goes out at once, on a connection that is used again too."""

from __future__ import annotations

import socket

from ltp.service.sockets import answer_at_once


def test_no_connection_waits_for_an_acknowledgement_before_it_sends_the_rest() -> None:
    with socket.socket() as listening:
        answer_at_once(listening)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
