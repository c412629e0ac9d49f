"""A real sshd on loopback for tests, which can be killed, stopped and given another key; and a proxy that is a bad link."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import free_port

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
needs_sshd = pytest.mark.skipif(not Path(SSHD).exists(), reason="openssh-server is not installed")


@dataclass
class Sshd:
    """A server with its own host key, that lets the owner of `client_key` in as the user who runs the tests."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user = getpass.getuser()
        self.client_key = self._key("client")
        self.new_host_key()
        shutil.copy(self.client_key.with_suffix(".pub"), self.folder / "authorized_keys")

    def _key(self, name: str) -> Path:
        path = self.folder / name
        for old in (path, path.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return path

    def new_host_key(self) -> None:
        """Be another machine from the next start on."""
        self._key("host")

    @property
    def fingerprint(self) -> str:
        """Of the host key."""
        line = subprocess.run(
            ["ssh-keygen", "-lf", str(self.folder / "host.pub")], check=True, capture_output=True, text=True
        )
        return line.stdout.split()[1]

    def start(self) -> Sshd:
        """Listen; returns once it does."""
        Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
        options = {
            "Port": self.port, "ListenAddress": "127.0.0.1", "HostKey": self.folder / "host", "PidFile": "none",
            "AuthorizedKeysFile": self.folder / "authorized_keys", "StrictModes": "no", "UsePAM": "no",
            "PasswordAuthentication": "no", "PermitRootLogin": "yes", "MaxStartups": "100:30:200",
        }  # fmt: skip
        config = self.folder / "sshd_config"
        lines = [f"{name} {value}" for name, value in options.items()]
        config.write_text("\n".join([*lines, "Subsystem sftp internal-sftp", "LogLevel ERROR"]) + "\n")
        log = (self.folder / "sshd.log").open("ab")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, start_new_session=True)
        deadline = time.monotonic() + 10
        while not _answers(self.port):
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def connections(self) -> list[int]:
        """The processes that serve connections."""
        assert self.process is not None
        return [pid for pid, parent in _parents().items() if parent == self.process.pid]

    def cut(self) -> None:
        """End every connection; what was started over them goes on."""
        for pid in self.connections():
            _signal(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server and its connections."""
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class BadLink:
    """A TCP proxy before a server: it can refuse, cut, fall silent, and be slow."""

    target: int
    port: int = field(default_factory=free_port)
    delay: float = 0.0
    silent: bool = False
    refuses: bool = False

    async def start(self) -> BadLink:
        self._open: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)
        for each in (writer, back):
            each.transport.abort()
            self._open.discard(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            while self.silent:
                await asyncio.sleep(0.02)
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def stop(self) -> None:
        self.cut()
        self._server.close()


def _answers(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
