"""`ltp checkpoint list|pin|unpin|remove`: which checkpoints lie on the disk, and why each of them stays."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.jobs import resolve
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, rows_table, show, size

app = typer.Typer(no_args_is_help=True, help="See which checkpoints are kept and why; pin, unpin and remove them.")

CheckpointId = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's id, or JOB@STEP (last@40).")]


@app.command("list")
def list_all(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id, or `last`. Default: all.")] = None,
    gone: Annotated[bool, typer.Option("--gone", help="Those that were removed, too.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List checkpoints with why each stays."""
    with reported():
        gateway = Gateway.find(data_dir)
        job_id = None if job is None else resolve(gateway, job)
        found = gateway.get("/checkpoints", job_id=job_id, gone=gone)
        show(found, json, lambda: rows_table(("CHECKPOINT", "STEP", "SIZE", "VALUE", "KEPT BECAUSE"), _rows(found)))


@app.command()
def pin(
    checkpoint: CheckpointId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Have a checkpoint stay, whatever the recipe's rule says."""
    _ask(checkpoint, "/pin", dry_run, data_dir, json)


@app.command()
def unpin(
    checkpoint: CheckpointId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Let the recipe's rule hold for a checkpoint again."""
    _ask(checkpoint, "/unpin", dry_run, data_dir, json)


@app.command()
def remove(
    checkpoint: CheckpointId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Delete a checkpoint's training state; its exported model stays."""
    _ask(checkpoint, "", dry_run, data_dir, json)


def _ask(checkpoint: str, verb: str, dry_run: bool, data_dir: Any, json: bool) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/checkpoints/{_id(gateway, checkpoint)}{verb}"
        send = gateway.post if verb else gateway.delete
        found = send(path, params={"dry_run": dry_run})
        show(found, json, lambda: f"step {found['step']}  {found['checkpoint_id']}\n  {found['message']}")


def _id(gateway: Gateway, checkpoint: str) -> str:
    job, at, step = checkpoint.partition("@")
    if not at:
        return checkpoint
    found = gateway.get("/checkpoints", job_id=resolve(gateway, job))
    # A step of two attempts: the later one is the one that counts.
    return next((str(c["checkpoint_id"]) for c in reversed(found) if str(c["step"]) == step), checkpoint)


def _rows(found: list[Any]) -> list[tuple[str, ...]]:
    return [
        (
            c["checkpoint_id"],
            str(c["step"]),
            size(c["size_bytes"]),
            "" if c["value"] is None else f"{c['value']:.6g}",
            f"removed ({c['removed_for']})" if c["removed_at"] else "; ".join(c["kept_because"]) or "goes next",
        )
        for c in found
    ]
