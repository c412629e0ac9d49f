"""`ltp webhook`: have events sent over HTTP, look after the deliveries, and send again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show

app = typer.Typer(no_args_is_help=True, help="Have events sent to other systems over HTTP.")

Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its name or id.")]


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where events go: https://…")],
    name: Annotated[str, typer.Option(help="What you call it.")] = "webhook",
    subject: Annotated[list[str] | None, typer.Option(help="As 'ltp.job.v1.*'; repeat. Default: all.")] = None,
    about: Annotated[str | None, typer.Option(help="Only events about this noun, by its id.")] = None,
    mode: Annotated[str, typer.Option(help="structured or binary CloudEvents.")] = "structured",
    project: Annotated[str | None, typer.Option(help="Only this project's. Default: yours, else all.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Send what came after this sequence number too.")] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Send events to a URL. The signing secret is printed once and cannot be shown again."""
    wanted: dict[str, Any] = {"url": url, "name": name, "mode": mode}
    more = {"subjects": subject or None, "about": about, "project": project, "after": after}
    wanted |= {key: value for key, value in more.items() if value is not None}
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            show(wanted, json, lambda: f"Would send {', '.join(subject or ['all events'])} to {url}.")
            return
        made = gateway.post("/webhooks", json=wanted)
        show(made, json, lambda: f"{made['secret']}\nShown once. Its id is {made['webhook_id']}.")


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List webhooks, newest first."""
    with reported():
        found = Gateway.find(data_dir).get("/webhooks", limit=1000)["webhooks"]
        show(found, json, lambda: rows_table(_COLUMNS, [_row(hook) for hook in found]))


@app.command()
def test(
    webhook: Webhook, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Send one test event now; exit code 1 when it was not taken."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            found = gateway.get(f"/webhooks/{webhook}")
            show(found, json, lambda: f"Would send a test event to {found['url']}.")
            return
        came = gateway.post(f"/webhooks/{webhook}/test")
        word = f"Taken, {came['status']}" if came["delivered"] else f"Not taken: {came['problem']}"
        show(came, json, lambda: f"{word} ({came['seconds']} s).")
        if not came["delivered"]:
            raise typer.Exit(1)


@app.command()
def deliveries(
    webhook: Webhook,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what became of each event, newest first; `--state dead` shows what was given up."""
    with reported():
        page = Gateway.find(data_dir).get(f"/webhooks/{webhook}/deliveries", state=state, limit=limit)
        columns = ("DELIVERY", "SEQ", "SUBJECT", "STATE", "TRIES", "STATUS", "NEXT", "PROBLEM")
        rows = [
            (d["delivery_id"], d["seq"], d["subject"], d["state"], d["attempts"], d["status"], moment(d["next_at"]), d["problem"])
            for d in page["deliveries"]
        ]  # fmt: skip
        show(page, json, lambda: rows_table(columns, rows))


@app.command()
def replay(
    webhook: Webhook,
    after: Annotated[int | None, typer.Option(min=0, help="All after this sequence number.")] = None,
    since: Annotated[str | None, typer.Option(help="All from this time on, as 2026-11-23T10:00:00Z.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were given up.")] = False,
    delivery: Annotated[int | None, typer.Option(min=1, help="This delivery.")] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Send events again; their ids are the same as before."""
    given = {"after": after, "since": since, "dead": dead or None, "delivery_id": delivery}
    wish = {key: value for key, value in given.items() if value is not None}
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            found = gateway.get(f"/webhooks/{webhook}")
            show(wish, json, lambda: f"Would send to {found['url']} again: {wish}.")
            return
        came = gateway.post(f"/webhooks/{webhook}/replay", json=wish)
        count = came["deliveries"]
        show(came, json, lambda: "Sending again." if count is None else f"{count} put in again.")


@app.command()
def enable(
    webhook: Webhook, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Start a webhook that was disabled, where it stopped."""
    _switch(webhook, True, dry_run, data_dir, json)


@app.command()
def disable(
    webhook: Webhook, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Send nothing until it is enabled again; what comes meanwhile is sent then."""
    _switch(webhook, False, dry_run, data_dir, json)


@app.command("rotate-secret")
def rotate_secret(
    webhook: Webhook, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Make a new signing secret, printed once. The old one signs too for 24 hours."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/webhooks/{webhook}")
        if dry_run:
            show(found, json, lambda: f"Would make a new secret for {found['name']}.")
            return
        made = gateway.post(f"/webhooks/{found['webhook_id']}/rotate-secret")
        show(made, json, lambda: f"{made['secret']}\nShown once.")


@app.command()
def remove(
    webhook: Webhook, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Remove a webhook with its deliveries."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/webhooks/{webhook}")
        if not dry_run:
            gateway.delete(f"/webhooks/{found['webhook_id']}")
        show(found, json, lambda: f"{'Would remove' if dry_run else 'Removed'} {found['name']} ({found['url']}).")


def _switch(webhook: str, enabled: bool, dry_run: bool, data_dir: Any, json: bool) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/webhooks/{webhook}")
        if not dry_run:
            found = gateway.patch(f"/webhooks/{found['webhook_id']}", json={"enabled": enabled})
        word = "enabled" if enabled else "disabled"
        show(found, json, lambda: f"{found['name']} {'would be' if dry_run else 'is'} {word}.")


_COLUMNS = ("NAME", "ID", "URL", "SUBJECTS", "PROJECT", "STATE", "FAILING SINCE", "POSITION")


def _row(hook: dict[str, Any]) -> tuple[Any, ...]:
    state = "enabled" if hook["enabled"] else f"disabled: {hook['reason']}"
    subjects, project = ",".join(hook["subjects"]), hook["project"] or "all"
    named = hook["name"], hook["webhook_id"], hook["url"]
    return *named, subjects, project, state, moment(hook["failing_since"]), hook["position"]
