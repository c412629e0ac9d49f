"""`ltp up|down|status|doctor`: the commands that bring the whole platform up on one machine and look after it."""

from __future__ import annotations

import asyncio
import json as json_format
import logging
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.live import Live

from ltp.cli import up_view
from ltp.cli.output import DataDirOption, JsonOption, err, fail, out
from ltp.core.errors import LtpError
from ltp.security.tokens import read_token
from ltp.up.detach import start_detached
from ltp.up.doctor import Verdict, examine
from ltp.up.platform import log_through, run_platform
from ltp.up.record import RunRecord
from ltp.up.services import platform_commands
from ltp.up.state import DataDir, prepare
from ltp.up.status import platform_status
from ltp.up.stop import stop_platform
from ltp.up.training_runs import live_runs, wait_for_end

RUN_LOOK_SECONDS = 0.2


def up(
    data_dir: DataDirOption = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Gateway port. Default: 8700, else a free one.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is ready.")] = False,
) -> None:
    """Start the platform: NATS, Postgres, Milvus Lite and every service."""
    data = DataDir.at(data_dir)
    try:
        _up_detached(data, port) if detach else _up_here(data, port)
    except LtpError as error:
        raise fail(error) from error
    except KeyboardInterrupt:
        raise typer.Exit(1) from None


def _up_here(data: DataDir, port: int | None) -> None:
    prepare(data)
    first = not data.secret("token").exists()
    log_through(logging.FileHandler(data.log("supervisor")))
    with Live(console=out, auto_refresh=False, transient=True) as live:

        def ready(record: RunRecord) -> None:
            live.stop()
            _announce(data, record, first)
            out.print("Ctrl-C stops it.")

        asyncio.run(run_platform(data, port, platform_commands(), _painter(live), ready))
    out.print("Stopped.")
    _name_live_runs(data)


def _up_detached(data: DataDir, port: int | None) -> None:
    first = not data.secret("token").exists()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        record = start_detached(data, port, _painter(live))
    _announce(data, record, first)
    out.print("`ltp down` stops it.")


def _painter(live: Live) -> Callable[[RunRecord], None]:
    def paint(record: RunRecord) -> None:
        if live.is_started:
            live.update(up_view.coming_up(record), refresh=True)

    return paint


def _announce(data: DataDir, record: RunRecord, first: bool) -> None:
    out.print(f"[bold green]ready[/] {record.urls['gateway']}  (open it in a browser: the console)")
    for label, path in (("token", data.secret("token")), ("data", data.root), ("logs", data.root / "logs")):
        out.print(f"  {label:<6}{path}", markup=False)
    if first:
        token = read_token(data.secret("token"))
        out.print(f"The first administrator's token, shown this once (the file keeps it for `ltp` here):\n  {token}")


def down(
    data_dir: DataDirOption = None,
    stop_runs: Annotated[
        bool, typer.Option("--stop-runs", help="Also stop the training runs of this host, which else go on.")
    ] = False,
) -> None:
    """Stop the platform; training runs go on unless told otherwise."""
    data = DataDir.at(data_dir)
    try:
        if stop_runs:
            _stop_runs(data)
        record = stop_platform(data)
        if stop_runs:
            _stop_runs(data)  # one that the scheduler started again meanwhile
    except LtpError as error:
        raise fail(error) from error
    else:
        out.print(f"Stopped (pid {record.pid})." if record else f"Nothing runs on {data.root}.", markup=False)
        _name_live_runs(data)


def _stop_runs(data: DataDir) -> None:
    runs = live_runs(data.runs)
    for run in runs:
        run.ask_to_stop()
        out.print(f"Stopping {run.run} {run.attempt} (launcher pid {run.launcher_pid}) …", markup=False)
    wait_for_end(runs, lambda: time.sleep(RUN_LOOK_SECONDS))


def _name_live_runs(data: DataDir) -> None:
    for run in live_runs(data.runs):
        out.print(
            f"Still training: {run.run} {run.attempt} (launcher pid {run.launcher_pid}). "
            f"Stop it with `ltp down --stop-runs`, or `touch {run.stop_file}`.",
            markup=False,
        )


def status(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show each process; exit code 1 when the platform does not run."""
    found = asyncio.run(platform_status(DataDir.at(data_dir)))
    if json:
        typer.echo(json_format.dumps(found.as_json(), indent=2))
    elif found.running:
        out.print(up_view.status_table(found))
    else:
        err.print(f"Nothing runs on {found.data_dir}. Start it with `ltp up`.", markup=False)
    if not found.running:
        raise typer.Exit(1)


def doctor(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Check this machine; exit code 1 when something stands in the way."""
    checks = examine(DataDir.at(data_dir))
    if json:
        typer.echo(json_format.dumps([vars(check) for check in checks], indent=2))
    else:
        out.print(up_view.checks_table(checks))
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(1)
