"""`ltp dataset`: bring files in and see what became of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, JsonOption, moment, reported, rows_table, show
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Bring files in and see what became of them.")

_POLL_SECONDS = 0.3


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON or Parquet.")],
    name: Annotated[str | None, typer.Option(help="What recipes call it. Default: the file's name.")] = None,
    holdout: Annotated[float, typer.Option(min=0, max=0.99, help="Share of rows held out as split `test`.")] = 0.1,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is frozen or rejected.")] = True,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Upload a file; it becomes an immutable version known by its content hash."""
    with reported():
        gateway = Gateway.find(data_dir)
        dataset = upload(gateway, file, name or file.stem, holdout)
        if wait:
            dataset = wait_until_read(gateway, dataset)
        show(dataset, json, lambda: describe(dataset))


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List datasets, newest first."""
    with reported():
        found = Gateway.find(data_dir).get("/datasets")
        columns = ("NAME", "STATE", "ROWS", "VERSION", "ADDED")
        rows = [(d["name"], d["state"], d["rows"], (d["version"] or "")[:12], moment(d["created_at"])) for d in found]
        show(found, json, lambda: rows_table(columns, rows))


@app.command()
def get(dataset_id: str, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one dataset."""
    with reported():
        dataset = Gateway.find(data_dir).get(f"/datasets/{dataset_id}")
        show(dataset, json, lambda: describe(dataset))


def upload(gateway: Gateway, file: Path, name: str, holdout: float) -> Any:
    """Send a file. Raises NOT_FOUND when there is none."""
    try:
        with file.open("rb") as content:
            return gateway.post(
                "/datasets", files={"file": (file.name, content)}, data={"name": name, "holdout": str(holdout)}
            )
    except OSError as error:
        raise LtpError(
            ErrorCode.NOT_FOUND, f"{file} cannot be read ({error.strerror}).", "Give the path of a file."
        ) from error


def wait_until_read(gateway: Gateway, dataset: Any) -> Any:
    """Return the dataset once it is frozen. Raises its problem when it is rejected."""
    while dataset["state"] == "uploaded":
        time.sleep(_POLL_SECONDS)
        dataset = gateway.get(f"/datasets/{dataset['dataset_id']}")
    if dataset["state"] == "rejected":
        raise Problem.model_validate(dataset["problem"]).error()
    return dataset


def describe(dataset: Any) -> str:
    """A dataset in a few lines."""
    splits: dict[str, Any] = dataset["splits"] or {}
    parts = ", ".join(f"{name} {split['rows']}" for name, split in sorted(splits.items()))
    lines = [f"{dataset['name']}  {dataset['state']}  {dataset['dataset_id']}"]
    copies = f", {dataset['duplicates']} word-for-word copies left out" if dataset["duplicates"] else ""
    if dataset["version"]:
        lines += [
            f"  version  {dataset['version']}",
            f"  rows     {dataset['rows']} ({parts}){copies}",
            f"  format   {dataset['format']}",
        ]
    return "\n".join(lines)
