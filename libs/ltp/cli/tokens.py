"""`ltp token`: make, list and revoke the tokens of people and machines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke tokens.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, as `ci`.")],
    role: Annotated[str, typer.Option(help="admin, manager, user or service.")] = "user",
    project: Annotated[str | None, typer.Option(help="The one project it sees. Default: yours, else all.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="A part of the role's scopes, as jobs:read; repeat.")] = None,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0.001, max=3650)] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token. It is printed once and cannot be shown again."""
    wanted: dict[str, Any] = {"name": name, "role": role, "project": project, "scopes": scope or None}
    wanted |= {"expires_in_days": expires_in_days}
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            show(wanted, json, lambda: f"Would make a token {name} of role {role} for {project or 'your project'}.")
            return
        made = gateway.post("/tokens", json=wanted)
        show(made, json, lambda: f"{made['token']}\nShown once. Revoke it with `ltp token revoke {made['prefix']}`.")


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List tokens, newest first; never the tokens themselves."""
    with reported():
        found = Gateway.find(data_dir).get("/tokens", limit=1000)["tokens"]
        show(found, json, lambda: rows_table(_COLUMNS, [_row(token) for token in found]))


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name, prefix or id.")],
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a token: nothing is done with it from now on."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/tokens/{token}")
        if not dry_run:
            found = gateway.delete(f"/tokens/{found['token_id']}")
        word = "Would revoke" if dry_run else "Revoked"
        show(found, json, lambda: f"{word} {found['name']} ({found['prefix']}…).")


_COLUMNS = ("NAME", "PREFIX", "ROLE", "PROJECT", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "STATE")


def _row(token: dict[str, Any]) -> tuple[Any, ...]:
    state = f"revoked {moment(token['revoked_at'])}" if token["revoked_at"] else ""
    scopes = ",".join(token["scopes"]) if token["scopes"] else "all of its role"
    times = [moment(token[at]) for at in ("created_at", "expires_at", "last_used_at")]
    return token["name"], token["prefix"], token["role"], token["project"] or "all", scopes, *times, state
