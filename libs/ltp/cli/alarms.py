"""`ltp job alarms` and `ltp job progress`: what is wrong with a running job, and how far it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.jobs import JobId, resolve
from ltp.cli.output import DataDirOption, JsonOption, moment, reported, show


def alarms(
    job: JobId,
    active: Annotated[bool, typer.Option("--active", help="Only those that hold now.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show a job's alarms with their evidence, newest first."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}/alarms", active=active)
        show(found, json, lambda: "\n".join(describe_alarm(alarm) for alarm in found) or "no alarms")


def progress(job: JobId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show how far a job is: step, pace, tokens a second, time left, the rollout of the step under way."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}/progress")
        show(found, json, lambda: describe_progress(found))


def describe_alarm(alarm: Any) -> str:
    """An alarm in a few lines."""
    over = f", over since {moment(alarm['cleared_at'])}" if alarm["cleared_at"] else ""
    head = f"{alarm['severity']:8} {alarm['rule']}  {moment(alarm['raised_at'])}  attempt {alarm['attempt']}"
    step = "" if alarm["step"] is None else f" step {alarm['step']}"
    lines = [f"{head}{step}{over}", f"  {alarm['message']}", f"  {alarm['hint']}"]
    return "\n".join([*lines, *(f"    | {line}" for line in alarm["evidence"])])


def describe_progress(found: Any) -> str:
    """Progress in a line or two."""
    parts = [f"attempt {found['attempt']} {found['state']}  step {found['step']} of {found['steps']}"]
    if found["step_seconds"] is not None:
        parts.append(f"{found['step_seconds']:.2f} s a step")
    if found["tokens_per_second"] is not None:
        parts.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    if found["eta_seconds"] is not None:
        parts.append(f"{found['eta_seconds']:.0f} s to go")
    lines = ["  ".join(parts)]
    if found["rollout"] is not None:
        r = found["rollout"]
        counts = f"{r['finished']} finished, {r['running']} running, {r['pending']} pending, {r['failed']} failed"
        lines.append(f"  rollout    {counts} ({moment(r['at'])})")
    if found["stalled_since"]:
        lines.append(f"  stalled    since {moment(found['stalled_since'])}; `ltp job alarms JOB` has the stacks")
    if found["disk_level"] not in {None, "ok"}:
        lines.append(f"  disk       {found['disk_level']}: {found['disk_free_bytes'] / 2**30:.2f} GiB free")
    return "\n".join(lines)
