"""`ltp compare`: two evaluations of the same rows, or a job's base and trained model, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli import results
from ltp.cli.client import Gateway
from ltp.cli.comparison_files import write_export
from ltp.cli.evaluation_lookup import find
from ltp.cli.output import DataDirOption, JsonOption, err, out, reported, rows_table, show
from ltp.comparison_text import report
from ltp.contracts.evaluation_questions import ComparisonRecord


def compare(
    first: Annotated[str, typer.Argument(metavar="BEFORE", help="An evaluation's id; or a job's, with nothing after.")],
    second: Annotated[str | None, typer.Argument(metavar="AFTER", help="The evaluation to compare with it.")] = None,
    samples: Annotated[int, typer.Option(min=0, max=200, help="How many rows to show side by side.")] = 5,
    change: Annotated[str | None, typer.Option(help="Only rows that are improved, regressed or unchanged.")] = None,
    label: Annotated[str | None, typer.Option(help="Only rows with this label, as tenant=acme.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only rows whose prompt or answers hold this text.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="Labels to look at apart. Default: all.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all rows to a .csv, .parquet or .md file.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until both models of a job are scored.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two evaluations of the same rows, or a job's base and trained model."""
    if second is None:
        results.compare(first, samples, change, wait, data_dir, json)
        return
    with reported():
        gateway = Gateway.find(data_dir)
        before, after = find(gateway, first), find(gateway, second)
        verdict = gateway.get("/comparisons", before=before, after=after, slices=slices or None)
        filters = {"before": before, "after": after, "change": change, "label": label, "contains": contains}
        page: dict[str, Any] = {"total": 0, "pairs": []}
        if samples:
            page = gateway.get("/comparisons/samples", **filters, limit=samples)
        if export is not None:
            count = write_export(export, ComparisonRecord.model_validate(verdict), gateway, filters)
            err.print(f"{count} rows written to {export}", markup=False)
        show({"comparison": verdict, **page}, json, lambda: _verdict(verdict))
        if not json and page["pairs"]:
            columns = ("CHANGE", "ROW", "PROMPT", "REFERENCE", "BEFORE", "AFTER")
            out.print(rows_table(columns, [_pair_line(pair) for pair in page["pairs"]]))


def _verdict(verdict: Any) -> str:
    lines = "".join(report(ComparisonRecord.model_validate(verdict)))
    # The empty table of rows is printed by the caller.
    return lines.rpartition("\n| row |")[0].removeprefix("# ").rstrip()


def _pair_line(pair: Any) -> tuple[Any, ...]:
    texts = (pair["prompt"], pair["reference"] or "", pair["before_response"], pair["after_response"])
    return (pair["change"], pair["row_id"], *(results.short(text) for text in texts))
