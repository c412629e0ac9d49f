"""`ltp bus`: let other systems listen to events over NATS, each with an account and a scope of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show

app = typer.Typer(no_args_is_help=True, help="Let other systems listen to events over NATS.")

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its name, user or id.")]
After = Annotated[int | None, typer.Option(min=0, help="Give what came after this sequence number.")]
Since = Annotated[str | None, typer.Option(help="Give what came since this time, as 2026-11-23T10:00:00Z.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Who listens, as `billing`.")],
    subject: Annotated[list[str] | None, typer.Option(help="As 'ltp.job.v1.*'; repeat. Default: all.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project's. Default: yours, else all.")] = None,
    after: After = None,
    since: Since = None,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0.001, max=3650)] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make an account. Its password is printed once and cannot be shown again."""
    more = {"subjects": subject or None, "project": project, "after": after, "since": since}
    more |= {"expires_in_days": expires_in_days}
    wanted: dict[str, Any] = {"name": name} | {key: value for key, value in more.items() if value is not None}
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            show(wanted, json, lambda: f"Would let {name} listen to {', '.join(subject or ['all events'])}.")
            return
        show(made := gateway.post("/bus-accounts", json=wanted), json, lambda: _how(made))


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List accounts, newest first; never their passwords."""
    with reported():
        found = Gateway.find(data_dir).get("/bus-accounts", limit=1000)["accounts"]
        columns = ("NAME", "USER", "PROJECT", "SUBJECTS", "CREATED", "EXPIRES", "STATE")
        rows = [
            (a["name"], a["user"], a["project"] or "all", ",".join(a["subjects"]), moment(a["created_at"]),
             moment(a["expires_at"]), f"revoked {moment(a['revoked_at'])}" if a["revoked_at"] else "")
            for a in found
        ]  # fmt: skip
        show(found, json, lambda: rows_table(columns, rows))


@app.command()
def replay(
    account: Account,
    after: After = None,
    since: Since = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Give an account events again, from a sequence number or a time on; without either, only what comes from now on."""
    wanted = {key: value for key, value in (("after", after), ("since", since)) if value is not None}
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/bus-accounts/{account}")
        if not dry_run:
            found = gateway.post(f"/bus-accounts/{found['account_id']}/replay", json=wanted)
        word = "Would set back" if dry_run else "Set back"
        show(found, json, lambda: f"{word} {found['name']}.")


@app.command()
def revoke(
    account: Account, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Revoke an account: NATS hangs up on it at once."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/bus-accounts/{account}")
        if not dry_run:
            found = gateway.delete(f"/bus-accounts/{found['account_id']}")
        show(found, json, lambda: f"{'Would revoke' if dry_run else 'Revoked'} {found['name']} ({found['user']}).")


def _how(made: dict[str, Any]) -> str:
    live = made["live_subjects"][0]
    return "\n".join(
        (
            f"user      {made['user']}",
            f"password  {made['password']}    (shown once)",
            f"kept      nats consumer next {made['stream']} {made['consumer']} --inbox-prefix {made['inbox_prefix']}",
            f"live      nats sub '{live}' --inbox-prefix {made['inbox_prefix']}",
        )
    )
