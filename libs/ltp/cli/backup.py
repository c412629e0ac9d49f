"""`ltp backup`, `ltp restore`, and `ltp init`, which makes the secrets of a set-up under compose."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, show, size
from ltp.core.errors import ErrorCode, LtpError


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The backup to write. It holds the keyring: keep it safe.")
    ],
    models: Annotated[bool, typer.Option("--models", help="Exported models too; they can be large.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE when it exists.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Back up a running platform: database, event streams, datasets, keyring, and what unfinished jobs go on from."""
    # Imported here: the tools of the servers take longer to import than most commands run.
    from ltp.backup import platform
    from ltp.up.state import DataDir

    with reported():
        target = file.expanduser().absolute()
        if target.exists() and not overwrite:
            raise LtpError(ErrorCode.CONFLICT, f"{target} exists.", "Give another name, or --overwrite.")
        if not target.parent.is_dir():
            raise LtpError(ErrorCode.INVALID_REQUEST, f"There is no folder {target.parent}.", "Make it first.")
        data = DataDir.at(data_dir)
        servers = platform.running_servers(data, os.environ)
        if dry_run:
            show({"path": str(target), "dry_run": True}, json, lambda: f"Would back up {data.root} to {target}")
            return
        told = asyncio.run(platform.back_up(data, servers, target, models=models))
        show(told, json, lambda: f"{target}  {size(told['bytes'])}, {told['events']} events, {told['files']} files")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Put a backup back into a stopped platform; `ltp up` then goes on from it, jobs that ran included."""
    from ltp.backup import platform
    from ltp.up.state import DataDir

    with reported():
        data = DataDir.at(data_dir)
        told = asyncio.run(
            platform.restore(data, file.expanduser().absolute(), os.environ, force=force, dry_run=dry_run)
        )
        done = (
            f"Would restore {file} to {data.root}"
            if dry_run
            else f"{data.root} is as of {told['taken_at']}; `ltp up` starts it"
        )
        show(told, json, lambda: done)


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where docker-compose.yml lies.")] = Path(),
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Make what docker-compose.yml needs and no repository may hold: .env and secrets/. Keeps what is there."""
    from ltp.backup.compose import make_secrets

    with reported():
        made = make_secrets(folder.expanduser().absolute(), dry_run=dry_run)
        verb = "Would make" if dry_run else "Made"
        show({"made": made}, json, lambda: f"{verb} {', '.join(made)}" if made else "Everything is there already")
