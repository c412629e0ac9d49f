"""One life of the platform on a data directory: claim it, plan every process, supervise them, leave it tidy."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ltp.bus.permissions import SYSTEM
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import new_token
from ltp.security.keyring import make_keyring
from ltp.up import procfs
from ltp.up.leftovers import clear_leftovers
from ltp.up.ports import LOOPBACK, choose_gateway_port, choose_ports
from ltp.up.process import ProcessSpec
from ltp.up.record import RunRecord, now, write_record
from ltp.up.scraping import write_scrape_config
from ltp.up.servers import Server, bus_url, needed_ports, plan_servers
from ltp.up.services import Commands
from ltp.up.state import DataDir, claim, prepare, read_or_make_secret, require_free_space
from ltp.up.supervisor import Supervisor

log = logging.getLogger(__name__)
_TLS = "LTP_GATEWAY_TLS_CERTIFICATE"


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first process starts."""

    servers: list[Server]
    services: list[ProcessSpec]
    migration: ProcessSpec | None
    ports: dict[str, int]
    urls: dict[str, str]


def ignore(_: RunRecord) -> None:
    """Observe nothing."""


async def run_platform(
    data: DataDir,
    port: int | None,
    commands: Commands,
    on_change: Callable[[RunRecord], None] = ignore,
    on_ready: Callable[[RunRecord], None] = ignore,
) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; raise `LtpError` when it cannot be brought up."""
    stop = stop_on_signal()
    try:
        prepare(data)
        with claim(data):
            await clear_leftovers(data)
            require_free_space(data)
            plan = make_plan(data, port, commands, os.environ)
            write_scrape_config(data, {service.name: service.port for service in plan.services})
            await _supervise(data, plan, stop, on_change, on_ready)
    except OSError as error:
        raise _as_ltp_error(data, error) from error


def stop_on_signal() -> asyncio.Event:
    """Return an event that the usual stop signals set; `nohup` keeps its meaning."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    return stop


def make_plan(data: DataDir, port: int | None, commands: Commands, environ: Mapping[str, str]) -> Plan:
    """Choose ports, make the secrets of a first start, and describe every process."""
    gateway = choose_gateway_port(port, data.root)
    names = [*needed_ports(environ), *(f"{service}_health" for service in commands.services if service != "gateway")]
    ports = {"gateway": gateway, **choose_ports(names, data.root, taken={gateway})}
    servers = plan_servers(data, ports, environ)
    read_or_make_secret(data.secret("token"), lambda: new_token()[0])
    read_or_make_secret(data.secret("metrics_token"))
    make_keyring(data.secret("keyring"))
    shared = dict(environ) | {server.variable: server.url for server in servers}
    shared |= {
        "LTP_DATA_DIR": str(data.root),
        "LTP_GATEWAY_PORT": str(gateway),
        "LTP_GATEWAY_TOKEN_FILE": str(data.secret("token")),
        "LTP_GATEWAY_METRICS_TOKEN_FILE": str(data.secret("metrics_token")),
    }
    buses: dict[str, dict[str, str]] = {}
    if "nats" in ports:
        # Each service is let in as itself, and may say only what is its to say.
        buses = {name: {"LTP_NATS_URL": bus_url(data, name, ports["nats"])} for name in commands.services}
        system = {"LTP_GATEWAY_BUS_SYSTEM_URL": bus_url(data, SYSTEM, ports["nats"])}
        buses["gateway"] = {**buses.get("gateway", {}), "LTP_GATEWAY_BUS_FOLDER": str(data.bus), **system}
    scheme = "https" if _TLS in environ else "http"
    urls = {"gateway": f"{scheme}://{LOOPBACK}:{gateway}"} | {server.name: server.public_url for server in servers}
    return Plan(
        servers=servers,
        services=[
            _service(data, name, argv, ports, shared | buses.get(name, {})) for name, argv in commands.services.items()
        ],
        migration=ProcessSpec("migrate", argv, shared, data.log("migrate")) if (argv := commands.migration) else None,
        ports=ports,
        urls=urls,
    )


def _service(
    data: DataDir, name: str, argv: Sequence[str], ports: Mapping[str, int], shared: Mapping[str, str]
) -> ProcessSpec:
    # The gateway answers for its health where it answers for everything.
    health = ports["gateway"] if name == "gateway" else ports[f"{name}_health"]
    # A certificate names the host that people call, which is not the loopback address.
    over_tls = name == "gateway" and _TLS in shared
    return ProcessSpec(
        name=name,
        argv=tuple(argv),
        environment={**shared, "LTP_HEALTH_PORT": str(health)},
        log=data.log(name),
        port=health,
        probe=f"tcp://{LOOPBACK}:{health}" if over_tls else f"http://{LOOPBACK}:{health}/readyz",
    )


async def _supervise(
    data: DataDir,
    plan: Plan,
    stop: asyncio.Event,
    on_change: Callable[[RunRecord], None],
    on_ready: Callable[[RunRecord], None],
) -> None:
    def changed() -> None:
        try:
            write_record(data.run_file, record)
        except OSError as error:  # a full disk must not take down what runs
            log.error("%s cannot be written: %s", data.run_file, error)
        on_change(record)

    def ready() -> None:
        record.ready_at = now()
        changed()
        log.info("ready at %s", record.urls["gateway"])
        on_ready(record)

    specs = [server.spec for server in plan.servers if server.spec]
    supervisor = Supervisor(specs, plan.services, plan.migration, changed)
    ticks = procfs.start_ticks(os.getpid()) or 0
    record = RunRecord(os.getpid(), ticks, now(), plan.ports, plan.urls, supervisor.records)
    write_record(data.run_file, record)
    try:
        await supervisor.run(stop, ready)
    finally:
        data.run_file.unlink(missing_ok=True)


def log_through(handler: logging.Handler) -> None:
    """Send the supervisor's own log lines to one place."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("ltp.up")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _as_ltp_error(data: DataDir, error: OSError) -> LtpError:
    """Name the file that could not be used; the checks before have ruled out the usual reasons."""
    return LtpError(
        ErrorCode.DATA_DIR_UNWRITABLE,
        f"{error.filename or data.root} cannot be used: {error.strerror or error}.",
        "Mend its owner or mode, or give another --data-dir.",
    )
