"""Files that are written from what the code says and never edited: brought up to date, or checked to be so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ltp.cli.output import show

REPOSITORY = Path(__file__).resolve().parents[3]
RootOption = Annotated[Path, typer.Option("--root", help="The root of the repository.")]
CheckOption = Annotated[bool, typer.Option("--check", "--dry-run", help="Change nothing; exit 1 when a file is stale.")]


def bring_up_to_date(root: Path, files: Mapping[str, str], *, check: bool, as_json: bool) -> None:
    """Write each of `files` (path below `root` → text) that differs and say which; with `check` exit 1 instead of writing."""
    stale = [path for path, text in files.items() if not _is(root / path, text)]
    for path in [] if check else stale:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path])
    told = "\n".join(stale) if stale else f"{len(files)} files are current"
    show({"files": len(files), "stale": stale}, as_json, lambda: told)
    if check and stale:
        raise typer.Exit(1)


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text
