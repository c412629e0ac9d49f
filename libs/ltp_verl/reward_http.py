"""The reward of a service: one POST for each response, with a clock, retries, and no way to addresses that are not meant.

Standard library only. The name is resolved here and the connection made to the address that was looked at, so that a name
which changes its mind between the look and the call gets nowhere; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ltp_verl.rewards import Asked, Judge, RewardError, finite

_MOST_BYTES = 1 << 20
_FIRST_PAUSE = 0.2
# Metadata services that lie outside the link-local ranges.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _PassingError(Exception):
    """A failure that another try may not have."""


def service(reward: Mapping[str, Any]) -> Judge:
    """The judge behind `url`."""

    async def judge(asked: Asked) -> float:
        body = json.dumps(
            {
                "prompt": [dict(turn) for turn in asked.prompt],
                "response": asked.response,
                "answer": asked.answer,
                **asked.row(),
            }
        ).encode()
        pause, why = _FIRST_PAUSE, ""
        for attempt in range(reward["retries"] + 1):
            if attempt:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)
            try:
                return await asyncio.wait_for(asyncio.to_thread(_post, reward, body), 2 * reward["timeout_seconds"])
            except (_PassingError, TimeoutError) as error:
                why = str(error) or f"no answer within {reward['timeout_seconds']:g} s"
        raise RewardError(f"{reward['url']}: {why} ({reward['retries'] + 1} tries)")

    return judge


def _post(reward: Mapping[str, Any], body: bytes) -> float:
    target = urlsplit(reward["url"])
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        address = reachable(target.hostname or "", port, link_local=reward["allow_link_local"])
        status, answer = _exchange(address, port, target, body, reward["timeout_seconds"])
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"{type(error).__name__}: {error}") from error
    if status in {408, 425, 429} or status >= 500:
        raise _PassingError(f"HTTP {status}")
    if status != 200:
        raise RewardError(f"{reward['url']} answered HTTP {status}")
    try:
        found: object = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "score" not in found:
        raise RewardError(f'{reward["url"]} answered something else than {{"score": number}}')
    return finite(found["score"], reward["url"])  # pyright: ignore[reportUnknownArgumentType]


def reachable(host: str, port: int, *, link_local: bool) -> str:
    """The address to connect to. Raises RewardError when any that the name has is one a reward must not reach."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        guarded = address.is_link_local or address in _METADATA
        if address.is_multicast or address.is_unspecified or (guarded and not link_local):
            hint = "" if not guarded else "; reward.allow_link_local allows it"
            raise RewardError(f"{host} is {address}, a link-local, metadata or multicast address{hint}")
    return addresses[0]


def _exchange(address: str, port: int, target: Any, body: bytes, seconds: float) -> tuple[int, bytes]:
    raw = socket.create_connection((address, port), timeout=seconds)
    connection = http.client.HTTPConnection(target.hostname, port, timeout=seconds)
    with raw:
        connection.sock = raw
        if target.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=target.hostname)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        answer = response.read(_MOST_BYTES + 1)
    if len(answer) > _MOST_BYTES:
        raise RewardError(f"{target.hostname} answered more than {_MOST_BYTES} bytes")
    return response.status, answer
