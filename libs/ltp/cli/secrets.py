"""`ltp secret`: store keys and passwords for endpoints and hosts. Values come on standard input, never as arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Store secrets that endpoints and hosts name; they cannot be read back.")

SecretName = Annotated[str, typer.Argument(metavar="NAME", help="What endpoints and hosts name it by.")]


@app.command("set")
def set_secret(
    name: SecretName,
    file: Annotated[Path | None, typer.Option("--file", help="Read the value from a file.")] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Store or replace a secret: asked for on a terminal, else read from standard input or a file."""
    with reported():
        gateway = Gateway.find(data_dir)
        value = _value(file)
        if dry_run:
            show({"name": name, "characters": len(value)}, json, lambda: f"Would store {name}.")
            return
        stored = gateway.put(f"/secrets/{name}", json={"value": value})
        show(stored, json, lambda: f"Stored {name}.")


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List secrets by name; never their values."""
    with reported():
        found = Gateway.find(data_dir).get("/secrets")["secrets"]
        rows = [(s["name"], s["project"], moment(s["created_at"]), moment(s["changed_at"])) for s in found]
        show(found, json, lambda: rows_table(("NAME", "PROJECT", "CREATED", "CHANGED"), rows))


@app.command()
def remove(
    name: SecretName, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Forget a secret."""
    with reported():
        gateway = Gateway.find(data_dir)
        known = {secret["name"] for secret in gateway.get("/secrets")["secrets"]}
        if name not in known:
            raise LtpError(ErrorCode.NOT_FOUND, f"There is no secret {name!r}.", "`ltp secret list` shows all.")
        if not dry_run:
            gateway.delete(f"/secrets/{name}")
        show({"name": name}, json, lambda: f"{'Would remove' if dry_run else 'Removed'} {name}.")


@app.command()
def rotate(dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Encrypt every secret under a new key and drop the old ones."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            count = len(gateway.get("/secrets")["secrets"])
            show({"secrets": count}, json, lambda: f"Would encrypt {count} secrets under a new key.")
            return
        done = gateway.post("/secrets/rotate")
        show(done, json, lambda: f"{done['secrets']} secrets encrypted anew, {done['keys_dropped']} old keys dropped.")


def _value(file: Path | None) -> str:
    try:
        if file is not None:
            value = file.read_text()
        elif sys.stdin.isatty():
            value = typer.prompt("Value", hide_input=True)
        else:
            value = sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        message = f"The value cannot be read ({type(error).__name__})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give a text file, or standard input.") from error
    # The line end of `echo KEY | ltp secret set` is not part of it; those inside a private key are.
    return value.removesuffix("\n").removesuffix("\r") if "\n" not in value.strip() else value
