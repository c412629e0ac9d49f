"""`ltp dataset delete|mark|quota`: what goes, what is personal, and how much a project may take."""

from __future__ import annotations

import json as text_json
from typing import Annotated

import typer

from ltp.cli.client import Gateway
from ltp.cli.datasets import app
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, show, size


@app.command()
def delete(
    ref: Annotated[str, typer.Argument(help="NAME for every version, NAME@HASH or an id for one.")],
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Delete versions and their files. Versions that a job still uses are kept."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            found = gateway.get(f"/datasets/{ref}/version")
            show(found, json, lambda: f"would delete {ref}: {found['name']} {found['version'][:12]} and what it names")
            return
        answer = gateway.delete(f"/datasets/{ref}")
        show(answer, json, lambda: f"deleting {answer['name']} {(answer['version'] or 'in every version')[:16]}")


@app.command()
def mark(
    name: str,
    personal: Annotated[list[str] | None, typer.Option(help="A field with personal data; may be repeated.")] = None,
    keep_days: Annotated[int | None, typer.Option(min=1, help="Delete versions older than this.")] = None,
    project: Annotated[str | None, typer.Option(help="Whose, where several projects have the name.")] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Mark fields as personal (kept out of logs, events and profiles), and say how long versions are kept."""
    with reported():
        request = {"personal": personal or None, "keep_days": keep_days, "project": project}
        answer = request if dry_run else Gateway.find(data_dir).put(f"/datasets/{name}/marks", json=request)
        show(answer, json, lambda: f"{'would mark' if dry_run else 'marked'} {name}: {text_json.dumps(answer)}")


@app.command()
def quota(
    project: Annotated[str, typer.Argument()] = "default",
    limit: Annotated[int | None, typer.Option(min=0, help="Bytes that its versions may take.")] = None,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="Take the limit away.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a project's versions take, or limit it."""
    with reported():
        gateway = Gateway.find(data_dir)
        if (limit is not None or no_limit) and not dry_run:
            gateway.put(f"/dataset-quotas/{project}", json={"quota_bytes": limit})
            found = {"project": project, "quota_bytes": limit}
            show(found, json, lambda: f"{project}: {'no limit' if limit is None else size(limit)}")
            return
        found = gateway.get(f"/dataset-quotas/{project}")
        allowed = "no limit" if found["quota_bytes"] is None else size(found["quota_bytes"])
        show(found, json, lambda: f"{project}: {size(found['used_bytes'])} of {allowed}")
