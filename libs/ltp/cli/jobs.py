"""`ltp job`: from a recipe to a running job, and what it writes."""

from __future__ import annotations

import json as json_format
import math
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ltp.cli import plans
from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, JsonOption, moment, reported, rows_table, show, sparkline
from ltp.cli.recipes import RecipeFile, read_recipe
from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState

app = typer.Typer(no_args_is_help=True, help="Submit training jobs and follow them.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or `last`.")]

_POLL_SECONDS = 0.5
_RETRY_SECONDS = 1.0


@app.command()
def submit(
    recipe: RecipeFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, but do not submit.")] = False,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: the same key submits once.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the job is over; exit 1 unless it succeeded.")
    ] = False,
    project: Annotated[str, typer.Option(help="Whose quota it counts against.")] = "default",
    owner: Annotated[str, typer.Option(help="Who shares the devices fairly with the others.")] = "default",
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="Higher goes first; a point is worth an hour of waiting.")
    ] = 0,
    preemptible: Annotated[bool, typer.Option("--preemptible", help="Jobs of higher priority may pause it.")] = False,
    max_attempts: Annotated[int, typer.Option(min=1, max=100, help="Failed attempts before it fails.")] = 3,
    refuse_leaks: Annotated[
        bool, typer.Option("--refuse-leaks", help="Not with a dataset in which a leak check found something.")
    ] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Plan it, but do not start it until `ltp job resume`.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Submit a recipe as a job."""
    if dry_run:
        plans.plan(recipe, data_dir=data_dir, json=json)
        return
    with reported():
        gateway = Gateway.find(data_dir)
        options = {"project": project, "owner": owner, "priority": priority, "preemptible": preemptible}
        options |= {"max_attempts": max_attempts, "start": not hold, "refuse_leaks": refuse_leaks}
        job = send(gateway, read_recipe(recipe), key, options)
        if wait:
            job = wait_until_over(gateway, job["job_id"])
        show(job, json, lambda: describe(job))
        if wait and job["state"] != JobState.SUCCEEDED:
            raise typer.Exit(1)


@app.command("list")
def list_all(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with reported():
        found = Gateway.find(data_dir).get("/jobs", state=state, limit=100)["jobs"]
        rows = [
            (j["job_id"], j["name"], j["recipe"]["algorithm"], j["state"], moment(j["submitted_at"])) for j in found
        ]
        show(found, json, lambda: rows_table(("JOB", "NAME", "ALGORITHM", "STATE", "SUBMITTED"), rows))


@app.command()
def get(job: JobId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one job."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}")
        found["alarms"] = open_alarms(gateway, found)
        show(found, json, lambda: describe(found))


@app.command()
def metrics(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print a job's metrics, a line for each line that the trainer logged; with --json as JSON lines."""
    with reported():
        gateway = Gateway.find(data_dir)
        job_id = resolve(gateway, job)
        lines = follow_metrics(gateway, job_id) if follow else read_metrics(gateway, job_id)
        for line in lines:
            typer.echo(_json_line(line) if json else _metrics_line(line))
            sys.stdout.flush()


@app.command()
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the attempt is over.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt. Default: the newest.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print the training process's output."""
    with reported():
        gateway = Gateway.find(data_dir)
        job_id, offset = resolve(gateway, job), 0
        while True:
            part = gateway.get(f"/jobs/{job_id}/logs", attempt=attempt, offset=offset, limit=262_144)
            if part["text"]:
                typer.echo(_json_line(part) if json else part["text"], nl=json)
            offset = part["next_offset"]
            if part["is_over"] or (not follow and not part["text"]):
                return
            if not part["text"]:
                time.sleep(_POLL_SECONDS)


def send(gateway: Gateway, recipe: Recipe, key: str | None = None, options: dict[str, Any] | None = None) -> Any:
    """Submit a recipe; returns the job."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return gateway.post("/jobs", json=recipe.settings(), headers=headers, params=options or {})


def resolve(gateway: Gateway, job: str) -> str:
    """A job's id; `last` is the newest."""
    if job != "last":
        return job
    found = gateway.get("/jobs", limit=1)["jobs"]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, "There are no jobs yet.", "Submit one with `ltp job submit RECIPE`.")
    return str(found[0]["job_id"])


def open_alarms(gateway: Gateway, job: Any) -> list[Any]:
    """The alarms that hold now: none of a job that does not run, nor while the runner does not answer."""
    if job["state"] != JobState.RUNNING:
        return []
    try:
        return list(gateway.get(f"/jobs/{job['job_id']}/alarms", active=True))
    except LtpError as error:
        if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
            raise
        return []


def wait_until_over(gateway: Gateway, job_id: str) -> Any:
    """Return the job once it is in a final state."""
    while True:
        job = gateway.get(f"/jobs/{job_id}")
        if JOB.is_over(JobState(job["state"])):
            return job
        time.sleep(_POLL_SECONDS)


def read_metrics(gateway: Gateway, job_id: str) -> Iterator[Any]:
    """All lines of metrics so far."""
    after = 0
    while lines := gateway.get(f"/jobs/{job_id}/metrics", after=after):
        yield from lines
        after = lines[-1]["seq"]


def follow_metrics(gateway: Gateway, job_id: str) -> Iterator[Any]:
    """Lines of metrics as they come, until the job is over; a gateway that restarts is waited for."""
    seen: str | None = None
    while True:
        try:
            for name, key, data in gateway.follow(f"/jobs/{job_id}/metrics/stream", seen):
                if name == "end":
                    return
                seen = key
                yield data
        except LtpError as error:
            if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
                raise
        time.sleep(_RETRY_SECONDS)


def describe(job: Any) -> str:
    """A job in a few lines."""
    wish = f" ({job['requested']} requested)" if job["requested"] else ""
    lines = [f"{job['name']}  {job['state']}{wish}  {job['job_id']}", f"  submitted  {moment(job['submitted_at'])}"]
    if job["started_at"]:
        lines.append(f"  started    {moment(job['started_at'])}")
    if job["ended_at"]:
        lines.append(f"  ended      {moment(job['ended_at'])}")
    if job["checkpoint_step"] is not None:
        lines.append(f"  checkpoint of step {job['checkpoint_step']}, attempt {job['attempt']}")
    lines += [f"  warning    {warning}" for warning in job.get("warnings", ())]
    lines += [f"  alarm      {a['severity']} {a['rule']}: {a['message']}" for a in job.get("alarms", ())]
    if job["problem"]:
        lines += [f"  {job['problem']['code']}: {job['problem']['message']}", f"  {job['problem']['hint']}"]
        lines += [f"    | {line}" for line in job["problem"].get("evidence", [])]
    return "\n".join(lines)


def loss_curve(lines: list[Any]) -> str:
    """The training loss as a sparkline with its ends."""
    losses = [float(line["metrics"]["train/loss"]) for line in lines if "train/loss" in line["metrics"]]
    curve = sparkline([loss for loss in losses if math.isfinite(loss)])
    return f"{losses[0]:.3f} {curve} {losses[-1]:.3f}" if losses else "no loss was logged"


def _metrics_line(line: Any) -> str:
    values = "  ".join(f"{name} {float(value):.6g}" for name, value in sorted(line["metrics"].items()))
    return f"{moment(line['at'])}  attempt {line['attempt']}  step {line['step']}  {values}"


def _json_line(value: Any) -> str:
    return json_format.dumps(value)
