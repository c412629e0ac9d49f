"""`ltp queue` and `ltp work`: what waits, what runs and who does it, limits and quotas, and what died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show
from ltp.core.errors import ErrorCode, LtpError

queue_app = typer.Typer(help="Show the queues, limit them, and look after dead letters.", invoke_without_command=True)
work_app = typer.Typer(no_args_is_help=True, help="Show pieces of work and their workers; cancel or retry them.")
dead_app = typer.Typer(no_args_is_help=True, help="Messages whose listener failed for good.")
queue_app.add_typer(dead_app, name="dead")

WorkId = Annotated[str, typer.Argument(metavar="WORK", help="The id of a piece of work.")]
Amount = Annotated[
    str | None, typer.Option(metavar="N|none", help="At most so many at a time; `none` lifts the limit.")
]


@queue_app.callback()
def queues(context: typer.Context, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show the queues: what waits and since when, what runs, limits, throughput, retries, dead."""
    if context.invoked_subcommand is None:
        list_queues(data_dir, json)


@queue_app.command("list")
def list_queues(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show the queues: what waits and since when, what runs, limits, throughput, retries, dead."""
    with reported():
        found = Gateway.find(data_dir).get("/queues")
        columns = ("QUEUE", "WAITING", "OLDEST", "DELAYED", "RUNNING", "LIMIT", "DONE/MIN", "RETRYING", "DEAD")
        show(found, json, lambda: rows_table(columns, [_queue_row(queue) for queue in found["queues"]]))


@queue_app.command("set")
def set_queue(
    name: Annotated[str, typer.Argument(help="The queue.")],
    limit: Amount = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--resumed", help="Let nothing new start, or start again.")
    ] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Limit how much of a queue runs at a time, or pause it. What runs goes on."""
    with reported():
        change: dict[str, Any] = {} if limit is None else {"limit": _amount(limit)}
        change |= {} if paused is None else {"paused": paused}
        _refuse_nothing(change, "--limit N|none, --paused or --resumed")
        gateway = Gateway.find(data_dir)
        path = f"/queues/{name}"
        found = gateway.get(path) | change if dry_run else gateway.patch(path, json=change)
        state = "paused" if found["paused"] else "open"
        show(found, json, lambda: f"Queue {found['name']}: {state}, limit {_or(found['limit'], 'none')}.")


@queue_app.command()
def quota(
    project: Annotated[str, typer.Argument(help="The project.")],
    running: Amount = None,
    devices: Amount = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--resumed", help="Let nothing new of it start, or start again.")
    ] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Limit how much a project runs at a time, in pieces of work and in devices; without options, show its quota."""
    with reported():
        change: dict[str, Any] = {} if running is None else {"max_running": _amount(running)}
        change |= {} if devices is None else {"max_devices": _amount(devices)}
        change |= {} if paused is None else {"paused": paused}
        gateway = Gateway.find(data_dir)
        if change and not dry_run:
            found = gateway.patch(f"/projects/{project}/quota", json=change)
        else:
            known = {each["name"]: each for each in gateway.get("/queues")["projects"]}
            nothing = {"name": project, "running": 0, "devices": 0, "max_running": None, "max_devices": None}
            found = known.get(project, nothing | {"paused": False}) | change
        show(found, json, lambda: _describe_quota(found))


@dead_app.command("list")
def list_dead(
    after: Annotated[int, typer.Option(min=0, help="Only letters with a greater number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List dead letters, oldest first."""
    with reported():
        found = Gateway.find(data_dir).get("/dead-letters", after=after, limit=limit)
        rows = [
            (each["seq"], moment(each["dead_at"]), each["subject"], each["consumer"], each["error"][:80])
            for each in found["letters"]
        ]
        show(found, json, lambda: rows_table(("SEQ", "AT", "SUBJECT", "CONSUMER", "ERROR"), rows))


Letters = Annotated[list[int] | None, typer.Argument(metavar="SEQ...", help="Numbers of letters.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@dead_app.command("replay")
def replay_dead(
    letters: Letters = None,
    everything: All = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Deliver dead letters again, to who could not take them in."""
    with reported():
        gateway = Gateway.find(data_dir)
        chosen = _letters(gateway, letters, everything)
        _each(chosen, lambda seq: gateway.post(f"/dead-letters/{seq}/replay"), "replayed", dry_run, json)


@dead_app.command("drop")
def drop_dead(
    letters: Letters = None,
    everything: All = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Throw dead letters away."""
    with reported():
        gateway = Gateway.find(data_dir)
        chosen = _letters(gateway, letters, everything)
        _each(chosen, lambda seq: gateway.delete(f"/dead-letters/{seq}"), "dropped", dry_run, json)


@work_app.command("list")
def list_work(
    state: Annotated[str | None, typer.Option(help="queued, running, done, failed or cancelled.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only work of this queue.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only work of this kind.")] = None,
    project: Annotated[str | None, typer.Option(help="Only work of this project.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only work of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Read on from `next_cursor` of the page before.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List work, newest first; `--state failed` shows the dead."""
    with reported():
        wanted = {"state": state, "queue": queue, "kind": kind, "project": project, "owner": owner}
        found = Gateway.find(data_dir).get("/work", limit=limit, cursor=cursor, **wanted)
        columns = ("WORK", "QUEUE", "KIND", "STATE", "PRIORITY", "PROJECT", "OWNER", "ENQUEUED", "PROBLEM")
        show(found, json, lambda: rows_table(columns, [_work_row(each) for each in found["work"]]))


@work_app.command()
def get(work: WorkId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one piece of work with its evidence."""
    with reported():
        found = Gateway.find(data_dir).get(f"/work/{work}")
        show(found, json, lambda: _describe(found))


@work_app.command()
def cancel(
    work: WorkId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Ask that work end."""
    with reported():
        gateway = Gateway.find(data_dir)
        before = gateway.get(f"/work/{work}")
        found = before if dry_run else gateway.post(f"/work/{work}/cancel")
        twice = before["cancel_requested"] and before["state"] in {"queued", "running"}
        said = "was requested already" if twice else "would be requested" if dry_run else "requested"
        show(found, json, lambda: f"Cancellation of {work} {said}; it is {found['state']}.")


@work_app.command()
def retry(
    work: WorkId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Put dead work back in its queue."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/work/{work}") if dry_run else gateway.post(f"/work/{work}/retry")
        show(found, json, lambda: f"{work} is {found['state']}{' (nothing was changed)' if dry_run else ' again'}.")


@work_app.command()
def workers(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List workers with what they do and since when."""
    with reported():
        found = Gateway.find(data_dir).get("/workers")
        columns = ("WORKER", "KIND", "HOST", "PID", "SINCE", "SEEN", "ALIVE", "HOLDS")
        show(found, json, lambda: rows_table(columns, [_worker_row(each) for each in found["workers"]]))


def _queue_row(queue: Any) -> tuple[Any, ...]:
    limit = f"{_or(queue['limit'], '-')}{' paused' if queue['paused'] else ''}"
    oldest = queue["oldest_wait_seconds"]
    wait = "" if oldest is None else f"{oldest:.0f} s"
    counts = (queue["delayed"], queue["running"], limit, queue["done_last_minute"], queue["retrying"], queue["dead"])
    return (queue["name"], queue["waiting"], wait, *counts)


def _work_row(work: Any) -> tuple[Any, ...]:
    problem = "" if work["problem"] is None else work["problem"]["code"]
    names = (work["queue"], work["kind"], work["state"], work["priority"], work["project"], work["owner"])
    return (work["work_id"], *names, moment(work["enqueued_at"]), problem)


def _worker_row(worker: Any) -> tuple[Any, ...]:
    holds = ", ".join(f"{each['dedup_key']} since {moment(each['since'])}" for each in worker["holds"])
    times = (moment(worker["started_at"]), moment(worker["seen_at"]))
    return (worker["name"], worker["kind"], worker["host"], worker["pid"], *times, worker["alive"], holds or "idle")


def _describe(work: Any) -> str:
    lines = [
        f"{work['kind']}  {work['state']}  {work['work_id']}",
        f"  key       {work['dedup_key']}",
        f"  queue     {work['queue']}, priority {work['priority']}, project {work['project']}, owner {work['owner']}",
        f"  enqueued  {moment(work['enqueued_at'])}",
        f"  taken     {work['claims']} times, failed {work['failures']}, lost its worker {work['deaths']}",
    ]
    if work["worker"]:
        lines.append(f"  worker    {work['worker']} since {moment(work['claimed_at'])}")
    if work["ended_at"]:
        lines.append(f"  ended     {moment(work['ended_at'])}")
    if work["problem"]:
        lines += [f"  {work['problem']['code']}: {work['problem']['message']}", f"  {work['problem']['hint']}"]
    return "\n".join(lines)


def _describe_quota(found: Any) -> str:
    running = f"{found['running']} running of {_or(found['max_running'], 'any number')}"
    devices = f"{found['devices']} devices of {_or(found['max_devices'], 'any number')}"
    return f"Project {found['name']}: {running}, {devices}{', paused' if found['paused'] else ''}."


def _letters(gateway: Gateway, given: list[int] | None, everything: bool) -> list[int]:
    """The letters meant: those given, each of which must be there, or all."""
    if everything == bool(given):
        raise LtpError(ErrorCode.INVALID_REQUEST, "Say which letters.", "Give their numbers, or --all.")
    found: list[int] = []
    while page := gateway.get("/dead-letters", after=found[-1] if found else 0, limit=500)["letters"]:
        found += [each["seq"] for each in page]
    if missing := [seq for seq in given or [] if seq not in found]:
        hint = "`ltp queue dead list` shows what there is."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dead letter {missing[0]}.", hint)
    return found if everything else list(dict.fromkeys(given or []))


def _each(letters: list[int], deed: Callable[[int], object], done: str, dry_run: bool, json: bool) -> None:
    """Do something to each letter, unless it is only to be shown, and say what was done."""
    for seq in [] if dry_run else letters:
        deed(seq)
    show(
        {done: letters, "dry_run": dry_run}, json, lambda: f"{len(letters)} {'would be' if dry_run else 'were'} {done}."
    )


def _amount(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{text!r} is no number.", "Give a number, or `none`.") from None


def _refuse_nothing(change: dict[str, Any], options: str) -> None:
    if not change:
        raise LtpError(ErrorCode.INVALID_REQUEST, "Nothing to set.", f"Give {options}.")


def _or(value: Any, otherwise: str) -> str:
    return otherwise if value is None else str(value)
