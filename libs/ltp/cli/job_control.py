"""`ltp job pause|resume|cancel|retry|clone|why`: what is done to a job, and the account of where it stands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from ltp.cli.alarms import alarms, progress
from ltp.cli.client import Gateway
from ltp.cli.jobs import JobId, app, resolve
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, show
from ltp.core.errors import ErrorCode, LtpError


def pause(job: JobId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Ask that a job save a checkpoint, give its devices up and keep its place."""
    _ask(job, "pause", dry_run, data_dir, json)


def resume(job: JobId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Let a paused job go on from its last checkpoint, or start one that was submitted with --hold."""
    _ask(job, "resume", dry_run, data_dir, json)


def cancel(job: JobId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Ask that a job end; its devices are freed."""
    _ask(job, "cancel", dry_run, data_dir, json)


def retry(
    job: JobId,
    from_start: Annotated[bool, typer.Option("--from-start", help="From step 0, not from its checkpoint.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Submit a failed or cancelled job again as a new one that goes on from its last checkpoint."""
    _ask(job, "retry", dry_run, data_dir, json, {"resume": not from_start})


def clone(
    job: JobId,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Differs in the copy: training.steps=20.")
    ] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Submit a job's recipe, with changes, as a new job."""
    with reported():
        body = {"changes": dict(_change(text) for text in changes or [])}
    _ask(job, "clone", dry_run, data_dir, json, body)


def why(job: JobId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Say what a job waits for and what would free it."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}/why")
        show(found, json, lambda: describe_why(found))


def describe_why(found: Any) -> str:
    """The account in a few lines."""
    lines = [f"{found['state']}  attempt {found['attempt']}  {found['job_id']}"]
    if found["turn"] is not None:
        lines.append(f"  number {found['turn']} of the work that waits for devices")
    for reason in found["reasons"]:
        lines.append(f"  {reason['cause']}: {reason['message']}")
        if reason["remedy"]:
            lines.append(f"      what would help: {reason['remedy']}")
    if found["not_before"]:
        lines.append(f"  not before {moment(found['not_before'])}")
    if found["problem"]:
        lines.append(f"  the last failure: {found['problem']['code']}: {found['problem']['message']}")
    return "\n".join(lines)


def _ask(job: str, verb: str, dry_run: bool, data_dir: Any, json: bool, body: dict[str, Any] | None = None) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/jobs/{resolve(gateway, job)}/{verb}"
        found = gateway.post(path, json=body, params={"dry_run": dry_run})
        show(found, json, lambda: f"{found['name']}  {found['state']}  {found['job_id']}\n  {found['message']}")


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--set {text}: a change is KEY=VALUE.", "--set training.steps=20")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        message = f"--set {text}: {value!r} is not a YAML value."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Quote it: --set 'name=\"a: b\"'") from error


# Put beside the noun's other verbs: who asks for `ltp job` gets the application from here.
for _verb in (pause, resume, cancel, retry, clone, why, alarms, progress):
    app.command()(_verb)
