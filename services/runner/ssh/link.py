"""One SSH connection to a host, shared by all that is done there, made again with back-off when it breaks.

The host's key is checked before anything secret is sent: against the pinned one, or at first contact against the
fingerprint that the operator gave. Nothing of the machine's own SSH configuration, keys or agent is used.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncssh

from ltp.core.errors import ErrorCode, LtpError
from services.runner.backends import LinkDownError

CONNECT_SECONDS = 20.0
# One operation; slow links are waited for, dead ones are found by the keep-alive before.
OPERATION_SECONDS = 120.0
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 10, 3
_BACKOFF_SECONDS, _BACKOFF_CEILING = 0.5, 30.0
# sshd allows ten channels a connection; the file session is one of them.
_CHANNELS = 6
_MOST_OUTPUT = 4 << 20

# It tells of every channel; what matters is told here.
logging.getLogger("asyncssh").setLevel(logging.WARNING)

_BROKEN = (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ChannelOpenError)


@dataclass(frozen=True)
class Credential:
    """What the host asks of us. Never printed."""

    kind: str
    value: str
    passphrase: str | None = None

    def __repr__(self) -> str:
        return f"Credential({self.kind})"


@dataclass(frozen=True)
class Target:
    """Where the link leads and which key must be shown there: an OpenSSH public key, or only its fingerprint."""

    host_id: str
    address: str
    port: int
    user: str
    pinned_key: str | None = None
    expected_fingerprint: str | None = None


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class KeyChangedError(LtpError):
    """The host showed another key than the pinned one."""

    def __init__(self, target: Target, wanted: str, shown: str) -> None:
        message = (
            f"{target.host_id} ({target.address}:{target.port}) shows the key {shown}, and not {wanted}: "
            "it is another machine, was installed anew, or somebody stands in between. Nothing was sent to it."
        )
        hint = f"Ask whoever runs it; if the new key is right: `ltp host trust {target.host_id} --fingerprint {shown}`."
        super().__init__(ErrorCode.HOST_KEY_CHANGED, message, hint)
        self.shown = shown


class _Client(asyncssh.SSHClient):
    def __init__(self, target: Target) -> None:
        self.target = target
        self.shown: asyncssh.SSHKey | None = None
        self.refusal: LtpError | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        wanted = self.target.expected_fingerprint
        if self.target.pinned_key is not None:
            wanted = asyncssh.import_public_key(self.target.pinned_key).get_fingerprint()
        shown = key.get_fingerprint()
        if wanted is not None and not hmac.compare_digest(wanted, shown):
            self.refusal = KeyChangedError(self.target, wanted, shown)
            return False
        return True


class Link:
    """The connection. `credential` is asked for when it is needed; `pin` is told the key of a first contact."""

    def __init__(
        self,
        target: Target,
        credential: Callable[[], Awaitable[Credential | None]],
        pin: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self.target = target
        self._credential = credential
        self._pin = pin
        self._lock = asyncio.Lock()
        self._channels = asyncio.Semaphore(_CHANNELS)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._last: Exception | None = None
        self.connects = 0

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = OPERATION_SECONDS) -> Done:
        """Run an argument vector; each word reaches the program as it is. Raises LinkDownError when the way is cut."""
        # The protocol knows only command lines: every word is quoted, so the remote shell finds words and nothing else.
        async with self._channels, self.using(timeout) as (connection, _):
            done = await connection.run(shlex.join(argv), input=stdin, encoding=None, check=False)
            if done.exit_status is None and done.exit_signal is None:
                # Nobody told how it ended: it may run on, and was not refused.
                self._drop(connection)
                raise LinkDownError(f"the link to {self.target.host_id} broke while {argv[0]} ran there")
        stdout, stderr = (_text(part) for part in (done.stdout, done.stderr))
        return Done(255 if done.exit_status is None else done.exit_status, stdout, stderr)

    @asynccontextmanager
    async def using(
        self, timeout: float = OPERATION_SECONDS
    ) -> AsyncIterator[tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]]:
        """The connection and its file session for one operation; what breaks it is raised as LinkDownError."""
        connection, sftp = await self.open()
        try:
            async with asyncio.timeout(timeout):
                yield connection, sftp
        except TimeoutError as error:
            # What became of the operation is unknown, so the connection is of no more use.
            self._drop(connection)
            raise LinkDownError(f"{self.target.host_id} did not answer within {timeout:.0f} s") from error
        except LinkDownError:
            raise
        except (*_BROKEN, ConnectionError) as error:
            self._drop(connection)
            raise LinkDownError(f"the link to {self.target.host_id} broke: {error}") from error
        except asyncssh.SFTPError as error:
            raise _as_os_error(error) from error
        except asyncssh.DisconnectError as error:
            self._drop(connection)
            raise LinkDownError(f"the link to {self.target.host_id} broke: {error}") from error

    async def open(self) -> tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]:
        """The connection, made when there is none; between tries it waits longer and longer, without making callers wait."""
        async with self._lock:
            if self._connection is not None and self._sftp is not None and not self._connection.is_closed():
                return self._connection, self._sftp
            if time.monotonic() < self._retry_at and self._last is not None:
                raise self._last
            try:
                self._connection, self._sftp = await self._connect()
            except (LinkDownError, LtpError) as error:
                self._wait_longer(error)
                raise
            self._failures, self._last, self.connects = 0, None, self.connects + 1
            return self._connection, self._sftp

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = self._sftp = None

    def _wait_longer(self, error: Exception) -> None:
        self._failures += 1
        spread = 0.5 + secrets.randbelow(500) / 1000
        self._retry_at = time.monotonic() + spread * min(
            _BACKOFF_CEILING, _BACKOFF_SECONDS * 2 ** min(self._failures, 10)
        )
        self._last = error

    def _drop(self, connection: asyncssh.SSHClientConnection) -> None:
        connection.abort()
        if self._connection is connection:
            self._connection = self._sftp = None

    async def _connect(self) -> tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]:
        client = _Client(self.target)
        credential = await self._credential()
        connection: asyncssh.SSHClientConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                options = _options(self.target, credential)
                connection, _ = await asyncssh.create_connection(lambda: client, **options)
                sftp = await connection.start_sftp_client()
        except Exception as error:
            if connection is not None:
                connection.abort()
            raise client.refusal or _refusal(self.target, credential, error) from error
        if self.target.pinned_key is None and client.shown is not None and self._pin is not None:
            await self._pin_first(client.shown, connection)
        return connection, sftp

    async def _pin_first(self, key: asyncssh.SSHKey, connection: asyncssh.SSHClientConnection) -> None:
        """From now on only this key, also for this very link; nothing runs over a key that could not be pinned."""
        assert self._pin is not None
        public = key.export_public_key().decode().strip()
        try:
            await self._pin(public, key.get_fingerprint())
        except BaseException:
            connection.abort()
            raise
        self.target = replace(self.target, pinned_key=public)


def _options(target: Target, credential: Credential | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "host": target.address, "port": target.port, "username": target.user,
        # An empty list: every key comes to _Client, which alone decides.
        "known_hosts": b"", "config": None, "agent_path": None, "client_keys": None, "gss_host": None,
        "x509_trusted_certs": None, "connect_timeout": CONNECT_SECONDS, "login_timeout": CONNECT_SECONDS,
        "keepalive_interval": KEEPALIVE_SECONDS, "keepalive_count_max": KEEPALIVE_COUNT,
    }  # fmt: skip
    if target.pinned_key is not None:
        options["server_host_key_algs"] = _algorithms(target.pinned_key)
    if credential is None:
        return options | {"preferred_auth": "none"}
    if credential.kind == "password":
        return options | {"password": credential.value, "preferred_auth": "password,keyboard-interactive"}
    try:
        key = asyncssh.import_private_key(credential.value, credential.passphrase)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise LtpError(
            ErrorCode.HOST_AUTH_FAILED,
            f"The private key of {target.host_id} cannot be read: {error}.",
            f"Register it again: `ltp host remove {target.host_id}`, then `ltp host add` with --key and --passphrase-file.",
        ) from error
    return options | {"client_keys": [key], "preferred_auth": "publickey"}


def _algorithms(public_key: str) -> list[str]:
    """Ask only for the pinned key, where a host has several."""
    algorithm = public_key.split(maxsplit=1)[0]
    return ["rsa-sha2-512", "rsa-sha2-256"] if algorithm == "ssh-rsa" else [algorithm]


def _refusal(target: Target, credential: Credential | None, error: Exception) -> Exception:
    if isinstance(error, LtpError):
        return error
    where = f"{target.host_id} ({target.user}@{target.address}:{target.port})"
    if isinstance(error, asyncssh.PermissionDenied):
        what = {None: "no password or key", "password": "the password", "private_key": "the private key"}
        kind = what.get(credential.kind if credential else None, "the secret")
        message = f"{where} refused {kind}."
        hint = f"Check the user and the secret; register it again with `ltp host add {target.host_id} ... --replace`."
        return LtpError(ErrorCode.HOST_AUTH_FAILED, message, hint)
    if isinstance(error, asyncssh.KeyExchangeFailed) and target.pinned_key is not None:
        return KeyChangedError(
            target, asyncssh.import_public_key(target.pinned_key).get_fingerprint(), "of another kind"
        )
    said = "did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return LinkDownError(f"{where} cannot be reached: {said}")


def _as_os_error(error: asyncssh.SFTPError) -> OSError:
    if isinstance(error, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
        return FileNotFoundError(error.reason)
    if isinstance(error, asyncssh.SFTPPermissionDenied):
        return PermissionError(error.reason)
    return OSError(error.reason)


def _text(part: Any) -> str:
    data: bytes = part if isinstance(part, bytes) else str(part or "").encode()
    return data[-_MOST_OUTPUT:].decode(errors="replace")
