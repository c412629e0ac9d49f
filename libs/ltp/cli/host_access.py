"""`ltp host add | remove | test | trust`: hosts that are reached over SSH, or as a Ray cluster."""

from __future__ import annotations

import getpass
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.hosts import HostId, app, parse_labels
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, show
from ltp.core.errors import ErrorCode, LtpError

_POLL_SECONDS = 0.2
_TEST_SECONDS = 180.0
_SIGNS = {"ok": ("green", "ok"), "warn": ("yellow", "warn"), "fail": ("red", "FAIL"), "skipped": (None, "-")}


@app.command()
def add(
    host: HostId,
    where: Annotated[
        str | None, typer.Argument(metavar="[USER@]ADDRESS[:PORT] | URL", help="How it is reached; or by the options.")
    ] = None,
    backend: Annotated[str, typer.Option(help="ssh, or ray for a cluster's dashboard URL.")] = "ssh",
    address: Annotated[str | None, typer.Option("--address", "--host", help="Name or IP address; ray: URL.")] = None,
    port: Annotated[int | None, typer.Option(help="ssh only; 22 if left out.")] = None,
    user: Annotated[str | None, typer.Option(help="ssh only.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="File of the private key; it is stored encrypted.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; `-` reads standard input.", allow_dash=True)
    ] = None,
    ask_password: Annotated[bool, typer.Option("--password", help="Ask for the password.")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the key's passphrase.", allow_dash=True)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="ray: file with the cluster's token.", allow_dash=True)
    ] = None,
    work_dir: Annotated[str, typer.Option(help="All that is written on the host lies below it.")] = "~/ltp",
    python: Annotated[
        str | None,
        typer.Option("--python", "--venv", "--conda", help="Interpreter, venv or conda prefix, or conda:NAME."),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="SHA256:... of the key it must show; else the first one shown is pinned.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given several times.")] = None,
    start_local: Annotated[
        bool, typer.Option("--start-local", help="ray: start a cluster of this machine's own there.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Change how a registered host is reached.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Register a host. Then `ltp host test HOST` tells whether it can train."""
    with reported():
        body: dict[str, Any] = {"host_id": host, "backend": backend, "work_dir": work_dir, "replace": replace}
        body |= place(backend, where, address, port, user)
        body |= secret(key, password_file, passphrase_file, token_file, ask=ask_password)
        body |= {"python": python, "host_key": fingerprint, "start_local": start_local}
        body["labels"] = parse_labels(label or [], {})
        found = Gateway.find(data_dir).post("/hosts", json=body, params={"dry_run": dry_run})
        told = "would be registered" if dry_run else "registered"
        show(found, json, lambda: f"{host}  {told}; `ltp host test {host}` tells whether it can train")


@app.command()
def remove(
    host: HostId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Take a registered host away, with its secret; what lies on it stays there."""
    with reported():
        found = Gateway.find(data_dir).delete(f"/hosts/{host}", params={"dry_run": dry_run})
        show(found, json, lambda: f"{host} {'would be' if dry_run else 'is'} registered no more")


@app.command()
def test(host: HostId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Test the way to a host step by step, and what it has; exit code 1 when a step fails."""
    with reported():
        gateway = Gateway.find(data_dir)
        report = follow(gateway, host, gateway.post(f"/hosts/{host}/test"), json, _TEST_SECONDS)
        show(report, json, lambda: f"{host} {'can train' if report['ok'] else 'cannot be used as it is'}")
        if not report["ok"]:
            raise typer.Exit(1)


def follow(gateway: Gateway, host: str, report: Any, json: bool, seconds: float) -> Any:
    """Print the steps of a report as they come, unless as JSON; the whole report."""
    told, deadline = 0, time.monotonic() + seconds
    while True:
        if not json:
            for check in report["checks"][told:]:
                _print(check)
            told = len(report["checks"])
        if report["state"] == "done":
            return report
        if time.monotonic() > deadline:
            message = f"{host} is not done after {seconds:.0f} s."
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "`ltp status` shows whether the runner is up.")
        time.sleep(_POLL_SECONDS)
        report = gateway.get(f"/hosts/{host}/report", report_id=report["report_id"])


@app.command()
def trust(
    host: HostId,
    fingerprint: Annotated[
        str | None, typer.Option(help="SHA256:... of the new key, as whoever runs the host tells you.")
    ] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Say that a host has another key from now on. Without --fingerprint it only shows the keys."""
    with reported():
        gateway = Gateway.find(data_dir)
        access = gateway.get(f"/hosts/{host}").get("access") or {}
        if fingerprint is None:
            shown = access.get("shown_fingerprint")
            lines = [
                f"pinned  {access.get('fingerprint') or '-'}",
                f"shown   {shown or 'the pinned one, at the last look'}",
            ]
            if shown:
                lines.append(f"If that is the host's new key: ltp host trust {host} --fingerprint {shown}")
            show(access, json, lambda: "\n".join(lines))
            return
        found = gateway.post(f"/hosts/{host}/trust", json={"fingerprint": fingerprint}, params={"dry_run": dry_run})
        show(found, json, lambda: f"{host} {'would have' if dry_run else 'has'} to show {fingerprint} from now on")


def place(backend: str, where: str | None, address: str | None, port: int | None, user: str | None) -> dict[str, Any]:
    """Address, port and user, told by options or as one word; options win."""
    if backend == "ray":
        return {"address": address or where or ""}
    rest, told_port, told_user = where or "", None, None
    if "@" in rest:
        told_user, _, rest = rest.rpartition("@")
    if rest.startswith("["):
        rest, _, tail = rest[1:].partition("]")
        told_port = tail.removeprefix(":") or None
    elif rest.count(":") == 1:
        rest, _, told_port = rest.partition(":")
    if told_port is not None and not told_port.isdigit():
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{told_port!r} is no port.", "USER@ADDRESS:PORT")
    return {"address": address or rest, "port": port or int(told_port or 22), "user": user or told_user}


def secret(
    key: Path | None, password: Path | None, passphrase: Path | None, token: Path | None, *, ask: bool
) -> dict[str, Any]:
    """The secret, from a file or the terminal: never from the command line, where everybody could read it."""
    found: dict[str, Any] = {}
    if key is not None:
        found["private_key"] = _read(key, strip=False)
    if password is not None:
        found["password"] = _read(password)
    elif ask:
        found["password"] = getpass.getpass("Password: ")
    if passphrase is not None:
        found["passphrase"] = _read(passphrase)
    if token is not None:
        found["token"] = _read(token)
    return found


def _read(path: Path, *, strip: bool = True) -> str:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {error}.", "Name a readable file."
        ) from error
    return text.strip("\r\n") if strip else text


def _print(check: Any) -> None:
    color, sign = _SIGNS[check["verdict"]]
    typer.secho(f"{sign:5}", fg=color, nl=False)
    typer.echo(f" {check['name']:9} {check['detail']}")
    if check["hint"] and check["verdict"] != "ok":
        typer.echo(f"{'':16}{check['hint']}")
