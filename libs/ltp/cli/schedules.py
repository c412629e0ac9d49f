"""`ltp schedule`: what is done at certain times, and what came of it."""

from __future__ import annotations

import json as json_format
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ltp.cli.client import Gateway
from ltp.cli.jobs import read_recipe
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show
from ltp.cli.pipelines import read_pipeline
from ltp.contracts.faults import faults_of
from ltp.contracts.schedule import ScheduleSpec
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Do things at certain times: run a pipeline, submit a job, a chore.")

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="A schedule's name or id.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the schedule is called.")],
    cron: Annotated[str | None, typer.Option(help="Five fields, or six with seconds in front.")] = None,
    every: Annotated[str | None, typer.Option(help="An interval: 30s, 5m, 2h, 1d.")] = None,
    timezone: Annotated[str, typer.Option(help="Of the cron expression, as Europe/Berlin.")] = "UTC",
    jitter: Annotated[str, typer.Option(help="Fire up to this much later, spread evenly.")] = "0s",
    overlap: Annotated[str, typer.Option(help="While a tick is at work: skip, allow, or queue-one.")] = "skip",
    catch_up: Annotated[str, typer.Option(help="Ticks that were missed: none, last, or all (bounded).")] = "last",
    catch_up_limit: Annotated[int, typer.Option(help="How many at most with --catch-up all.")] = 10,
    pipeline: Annotated[Path | None, typer.Option(help="Run this pipeline (YAML).")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Submit this recipe as a job (YAML).")] = None,
    task: Annotated[str | None, typer.Option(help="Do a chore, as host-probe.")] = None,
    settings: Annotated[str, typer.Option(help="Settings of the chore, as JSON.")] = "{}",
    paused: Annotated[bool, typer.Option("--paused", help="Create it paused.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and show its next ticks.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Create a schedule."""
    with reported():
        given = {"cron": cron, "every_seconds": None if every is None else _seconds(every), "timezone": timezone}
        given |= {"jitter_seconds": _seconds(jitter), "overlap": overlap, "catch_up": catch_up}
        given |= {"catch_up_limit": catch_up_limit, "paused": paused, "name": name}
        spec = _checked(given | {"action": _action(pipeline, recipe, task, settings)})
        params = {"dry_run": "true"} if dry_run else {}
        found = Gateway.find(data_dir).post("/schedules", json=spec.model_dump(mode="json"), params=params)
        show(found, json, lambda: _describe(found))


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List schedules by name, the platform's own among them."""
    with reported():
        gateway, found, cursor = Gateway.find(data_dir), list[Any](), None
        while True:
            page = gateway.get("/schedules", cursor=cursor, limit=1000)
            found += page["schedules"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        rows = [(s["name"], s["state"], _rhythm(s["spec"]), _what(s["spec"]), moment(s["next_at"])) for s in found]
        show(found, json, lambda: rows_table(("NAME", "STATE", "WHEN", "WHAT", "NEXT"), rows))


@app.command()
def get(schedule: Name, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show a schedule and its next ticks."""
    with reported():
        found = Gateway.find(data_dir).get(f"/schedules/{schedule}")
        show(found, json, lambda: _describe(found))


@app.command()
def pause(
    schedule: Name, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Stop a schedule's ticks; what was started goes on."""
    _change(schedule, "pause", dry_run, data_dir, json)


@app.command()
def resume(
    schedule: Name, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Let a schedule tick again, from its next instant on."""
    _change(schedule, "resume", dry_run, data_dir, json)


@app.command()
def delete(
    schedule: Name, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Delete a schedule with its ticks; what they started goes on."""
    _change(schedule, "delete", dry_run, data_dir, json)


@app.command("run-now")
def run_now(
    schedule: Name, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Fire a tick at once, paused or not."""
    _change(schedule, "run-now", dry_run, data_dir, json)


@app.command()
def ticks(
    schedule: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List a schedule's ticks, newest first, with what came of each."""
    with reported():
        found = Gateway.find(data_dir).get(f"/schedules/{schedule}/ticks", limit=limit)["ticks"]
        rows = [(moment(t["due_at"]), t["state"], moment(t["fired_at"]), t["noun_id"], _result(t)) for t in found]
        show(found, json, lambda: rows_table(("DUE", "STATE", "FIRED", "MADE", "RESULT"), rows))


def _change(schedule: str, verb: str, dry_run: bool, data_dir: Path | None, json: bool) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            found = gateway.get(f"/schedules/{schedule}")
            show(found, json, lambda: f"Would {verb} {found['name']}, which is {found['state']}.")
            return
        path = f"/schedules/{schedule}"
        found = gateway.delete(path) if verb == "delete" else gateway.post(f"{path}/{verb}")
        done = {"delete": "deleted", "pause": "paused", "resume": "active again", "run-now": "fired"}
        show(found, json, lambda: f"{schedule} is {done[verb]}.")


def _action(pipeline: Path | None, recipe: Path | None, task: str | None, settings: str) -> dict[str, Any]:
    if [pipeline, recipe, task].count(None) != 2:
        message = "Give exactly one of --pipeline, --recipe and --task."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "A schedule does one thing.")
    if pipeline is not None:
        return {"kind": "pipeline", "pipeline": read_pipeline(pipeline).model_dump(mode="json")}
    if recipe is not None:
        return {"kind": "job", "recipe": read_recipe(recipe).settings()}
    try:
        return {"kind": "maintenance", "task": task, "settings": json_format.loads(settings)}
    except ValueError as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--settings is no JSON: {error}.", 'As {"done_days": 7}.') from error


def _checked(given: dict[str, Any]) -> ScheduleSpec:
    try:
        return ScheduleSpec.model_validate(given)
    except ValidationError as error:
        raise LtpError(ErrorCode.INVALID_SCHEDULE, faults_of(error), "See `ltp schedule create --help`.") from error


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)", text.strip())
    if found is None:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{text[:50]!r} is no length of time.", "Write 30s, 5m, 2h or 1d.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _rhythm(spec: Any) -> str:
    if spec["cron"] is None:
        return f"every {spec['every_seconds']:g} s"
    return spec["cron"] if spec["timezone"] == "UTC" else f"{spec['cron']} ({spec['timezone']})"


def _what(spec: Any) -> str:
    action = spec["action"]
    named = {"pipeline": lambda: action["pipeline"]["name"], "job": lambda: action["recipe"]["name"]}
    return f"{action['kind']} {named.get(action['kind'], lambda: action['task'])()}"


def _result(tick: Any) -> str:
    if tick["problem"]:
        return f"{tick['problem']['code']}: {tick['problem']['message']}"[:100]
    return tick["reason"] or (json_format.dumps(tick["result"]) if tick["result"] else "")


def _describe(schedule: Any) -> str:
    spec = schedule["spec"]
    lines = [f"{schedule['name']}  {schedule['state']}  {schedule['schedule_id'] or ''}"]
    lines.append(f"  {_rhythm(spec)}: {_what(spec)}, overlap {spec['overlap']}, catch up {spec['catch_up']}")
    return "\n".join(lines + [f"  next  {moment(at)}" for at in schedule["upcoming"]])
