"""`ltp dataset mix|split|keep`: new versions made of others."""

from __future__ import annotations

import json as text_json
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.dataset_files import wait_until_read
from ltp.cli.dataset_text import describe
from ltp.cli.datasets import NameOption, WaitOption, app
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, show
from ltp.core.errors import ErrorCode, LtpError


@app.command()
def mix(
    parts: Annotated[list[str], typer.Argument(help="NAME=WEIGHT or NAME@HASH=WEIGHT, one for each version.")],
    name: Annotated[str, typer.Option(help="The name of the mix.")],
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows in all; left out, as many as the weights allow.")
    ] = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Mix versions by weight into a new version; no row comes twice."""
    request = {"name": name, "parts": _numbers(parts, "NAME=WEIGHT"), "rows": rows}
    _make("/datasets/mix", request, wait, dry_run, data_dir, json)


@app.command()
def split(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@HASH or an id.")],
    shares: Annotated[list[str], typer.Argument(help="SPLIT=RATIO, which sum to 1.")],
    name: NameOption = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Split a version anew by the hash of the rows' ids, as a new version."""
    request = {"shares": _numbers(shares, "SPLIT=RATIO"), "name": name}
    _make(f"/datasets/{ref}/split", request, wait, dry_run, data_dir, json)


@app.command()
def keep(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@HASH or an id.")],
    where: Annotated[list[str], typer.Argument(help="FIELD=VALUE; the same field again means either value.")],
    name: NameOption = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Keep the rows whose fields have the given values, as a new version."""
    wanted: dict[str, list[str]] = {}
    for key, value in (_pair(item, "FIELD=VALUE") for item in where):
        wanted.setdefault(key, []).append(value)
    _make(f"/datasets/{ref}/keep", {"where": wanted, "name": name}, wait, dry_run, data_dir, json)


def _make(path: str, request: dict[str, Any], wait: bool, dry_run: bool, data_dir: Path | None, as_json: bool) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            show(request, as_json, lambda: f"would make: {text_json.dumps(request)}")
            return
        dataset = gateway.post(path, json=request)
        if wait:
            dataset = wait_until_read(gateway, dataset)
        show(dataset, as_json, lambda: describe(dataset))


def _pair(item: str, form: str) -> tuple[str, str]:
    key, equals, value = item.rpartition("=") if form != "FIELD=VALUE" else item.partition("=")
    if not equals or not key:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{item!r} is not of the form {form}.", "See --help.")
    return key, value


def _numbers(items: list[str], form: str) -> dict[str, float]:
    with reported():
        found: dict[str, float] = {}
        for key, value in (_pair(item, form) for item in items):
            try:
                found[key] = float(value)
            except ValueError as error:
                raise LtpError(ErrorCode.INVALID_REQUEST, f"{value!r} in {key}={value} is no number.", "") from error
        return found
