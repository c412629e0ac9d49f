"""`ltp events`: follow the bus itself, read what was said, and refill a stream that was emptied."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import nats
import typer
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ltp.bus.permissions import OPERATOR
from ltp.bus.relay import Relay
from ltp.bus.streams import ensure_streams
from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, JsonOption, moment, out, reported, rows_table, show
from ltp.contracts.event import SERVICES
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from ltp.up.record import RunRecord
from ltp.up.servers import bus_url, database_url
from ltp.up.state import DataDir

app = typer.Typer(no_args_is_help=True, help="Follow and read the platform's events.")


@app.command()
def tail(
    subject: Annotated[str, typer.Option("--subject", help="A NATS subject, wildcards allowed.")] = "ltp.>",
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print events as they are said, straight from NATS, until Ctrl-C."""
    with reported():
        try:
            asyncio.run(_tail(_nats_url(data_dir), subject, json))
        except (NatsError, OSError) as error:
            raise LtpError(
                ErrorCode.SERVICE_UNAVAILABLE, f"NATS cannot be reached ({error}).", "`ltp status` shows what runs."
            ) from error
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


@app.command("list")
def list_all(
    job: Annotated[str | None, typer.Option(help="Only events of this job.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events of this subject.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only what came after this sequence number.")] = 0,
    since: Annotated[
        str | None, typer.Option(help="Only what was said from this time on, as 2026-11-23T10:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 200,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List events in the order they were heard."""
    with reported():
        wanted = {"job_id": job, "subject": subject, "after": after, "since": since, "limit": limit}
        found = Gateway.find(data_dir).get("/events", **wanted)
        rows = [(e["seq"], moment(e["at"]), e["subject"], e["about"]) for e in found]
        show(found, json, lambda: rows_table(("SEQ", "AT", "SUBJECT", "ABOUT"), rows))


@app.command()
def refill(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Publish every fact again from Postgres, for a stream that lost its messages. Listeners drop what they know."""
    with reported():
        told = asyncio.run(_refill(_nats_url(data_dir), _database_url(data_dir)))
        show({"published": told}, json, lambda: f"{told} events published again.")


async def _tail(url: str, subject: str, as_json: bool) -> None:
    client = await nats.connect(url, connect_timeout=5, max_reconnect_attempts=-1)

    async def print_message(message: Msg) -> None:
        headers = dict(message.headers or {})
        data: Any = json_format.loads(message.data or b"null")
        if as_json:
            typer.echo(json_format.dumps({"subject": message.subject, "headers": headers, "data": data}))
        else:
            out.print(f"{moment(headers.get('ce-time'))}  [bold]{message.subject}[/]  {headers.get('ce-subject', '')}")
        sys.stdout.flush()

    await client.subscribe(subject, cb=print_message)
    await client.flush()
    await asyncio.Event().wait()


async def _refill(nats_url: str, database_url: str) -> int:
    client = await nats.connect(nats_url, connect_timeout=5)
    js, told = client.jetstream(), 0
    await ensure_streams(js)
    for service in SERVICES:
        database = Database.connect(database_url, service)
        told += await Relay(database, js).republish_all()
        await database.close()
    await client.close()
    return told


def _nats_url(data_dir: Path | None) -> str:
    given = os.environ.get("LTP_NATS_URL")
    if given:
        return given
    record = _running(data_dir)
    # Without a port of ours, somebody else runs it and the record says where.
    port = record.ports.get("nats")
    return bus_url(DataDir.at(data_dir), OPERATOR, port) if port else record.urls["nats"]


def _database_url(data_dir: Path | None) -> str:
    given = os.environ.get("LTP_DATABASE_URL")
    return given or database_url(DataDir.at(data_dir), _running(data_dir).ports["postgres"])


def _running(data_dir: Path | None) -> RunRecord:
    record = DataDir.at(data_dir).running()
    if record is None:
        hint = "Start one with `ltp up -d`, or set LTP_NATS_URL and LTP_DATABASE_URL."
        raise LtpError(ErrorCode.NOT_RUNNING, "No platform runs here.", hint)
    return record
