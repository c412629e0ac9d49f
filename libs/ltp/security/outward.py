"""Calls to addresses that users name: a name is resolved once, every address is checked, and the checked one is called.

What a user names must not lead into the operator's own network (server-side request forgery): to this machine, private and
link-local networks with their metadata services, or anything else that is not the public internet. A check before the
connection would be of another answer than the one connected to, so it is made where the connection is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpcore

from ltp.core.errors import ErrorCode, LtpError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Prefixes behind which an IPv4 address hides: NAT64 (well-known and local) and 6to4.
_TRANSLATED = tuple((ipaddress.IPv6Network(n), at) for n, at in (("64:ff9b::/96", 0), ("2002::/16", 80)))
_CLOSED = tuple(
    map(ipaddress.ip_network, ("64:ff9b:1::/48", "2001::/32", "192.88.99.0/24", "fec0::/10", "100.64.0.0/10"))
)


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as CIDR. Raises ValueError."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)


def may_call(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether an address is on the public internet, or in a network that the operator opened."""
    if any(address.version == network.version and address in network for network in allowed):
        return True
    inner = _inner(address)
    if inner is not None:
        return may_call(inner, allowed)
    closed = any(address.version == network.version and address in network for network in _CLOSED)
    return address.is_global and not (closed or address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner(address: Address) -> Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    for network, shift in _TRANSLATED:
        if address in network:
            return ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return None


@dataclass
class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only where `may_call` allows. The name stays what TLS checks the certificate against."""

    allowed: Sequence[Network] = ()
    inner: httpcore.AsyncNetworkBackend = field(
        default_factory=lambda: cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
    )

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check every address, connect to the first that answers. Raises FORBIDDEN, httpcore.ConnectError."""
        addresses = await _resolved(host, port)
        for address in addresses:
            # One closed address among open ones is how a name is bent later: refuse the whole name.
            if not may_call(ipaddress.ip_address(address.partition("%")[0]), self.allowed):
                raise not_public(host)
        for address in addresses[:-1]:
            try:
                return await self.inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self.inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Nobody outside is behind a file."""
        raise not_public(path)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def not_public(host: str) -> LtpError:
    """The place is closed to calls that users name. Says no address: a name must not tell what our network looks like."""
    message = f"{host[:200]} is not on the public internet, and no operator has opened its network."
    hint = "Name a public address, or have LTP_GATEWAY_WEBHOOK_NETWORKS name the network, as 10.1.0.0/16."
    return LtpError(ErrorCode.FORBIDDEN, message, hint)


async def _resolved(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host[:200]} cannot be resolved") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
