"""`ltp dataset dedup` and `ltp dataset leaks`: rows that repeat others, and evaluation rows among training rows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.dataset_files import wait_until_read
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show
from ltp.cli.search import (
    DatasetArgument,
    ModelOption,
    PartOption,
    WaitOption,
    one_line,
    path,
    wait_until_over,
)
from ltp.contracts.dedup import DedupMethod, TextPart
from ltp.contracts.values import Problem

app = typer.Typer(no_args_is_help=True, help="Find rows that repeat others, and make versions without them.")

CosineOption = Annotated[
    float | None, typer.Option("--threshold", "--cosine", help="Cosine from which rows are the same.")
]
JaccardOption = Annotated[float | None, typer.Option(help="Jaccard index of 5-character runs from which they are.")]
MethodOption = Annotated[
    DedupMethod, typer.Option(help="exact: same text; near: characters; semantic: vectors; combined: both of these.")
]
AgainstOption = Annotated[
    list[str] | None, typer.Option("--against", help="Compare with this dataset too (NAME or NAME@VERSION).")
]
DedupOption = Annotated[str | None, typer.Option("--dedup", help="The id of a search that was made before.")]


def register(parent: typer.Typer) -> None:
    """Add these verbs to `ltp dataset`."""
    parent.add_typer(app, name="dedup")
    parent.command()(leaks)


@app.command()
def preview(
    dataset: DatasetArgument,
    method: MethodOption = "combined",
    threshold: CosineOption = None,
    jaccard: JaccardOption = None,
    part: PartOption = "conversation",
    against: AgainstOption = None,
    model: ModelOption = None,
    dedup: DedupOption = None,
    offset: Annotated[int, typer.Option(min=0, help="First removal shown.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Removals shown.")] = 20,
    wait: WaitOption = True,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what would go, each row with its twin. With --dedup, move the thresholds of a search without a new one."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dedup is None:
            found = _search(gateway, dataset, method, threshold, jaccard, part, against, model)
            if not wait:
                show(found, json, lambda: f"{found['dedup_id']}  {found['state']}")
                return
            dedup = str(_wait(gateway, dataset, found)["dedup_id"])
        page = _page(gateway, dataset, dedup, threshold, jaccard, offset, limit)
        show(page, json, lambda: _removals(page))


@app.command("list")
def list_all(dataset: DatasetArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the searches for duplicates in a dataset, newest first."""
    with reported():
        found = Gateway.find(data_dir).get(f"{path(dataset)}/dedup")["dedups"]
        columns = ("DEDUP", "STATE", "METHOD", "COSINE", "JACCARD", "ROWS", "REMOVALS", "MADE")
        rows = [
            (
                *(d["dedup_id"], d["state"], d["method"], d["thresholds"]["cosine"], d["thresholds"]["jaccard"]),
                *(d["rows"], d["removals"], moment(d["created_at"])),
            )
            for d in found
        ]
        show(found, json, lambda: rows_table(columns, rows))


@app.command()
def apply(
    dataset: DatasetArgument,
    dedup: DedupOption = None,
    method: MethodOption = "combined",
    threshold: CosineOption = None,
    jaccard: JaccardOption = None,
    part: PartOption = "conversation",
    against: AgainstOption = None,
    model: ModelOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the new version. Default: the dataset's own.")] = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a new version without the duplicates: of the search --dedup, else of one made now."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dedup is None:
            found = _search(gateway, dataset, method, threshold, jaccard, part, against, model)
            dedup = str(_wait(gateway, dataset, found)["dedup_id"])
        if dry_run:
            page = _page(gateway, dataset, dedup, threshold, jaccard, 0, 20)
            show(page, json, lambda: _removals(page))
            return
        wanted = {"cosine": threshold, "jaccard": jaccard, "name": name}
        made = gateway.post(f"{path(dataset)}/dedup/{dedup}/apply", json=wanted)
        if wait:
            made = wait_until_read(gateway, made)
        show(made, json, lambda: _made(made))


def leaks(
    dataset: DatasetArgument,
    against: AgainstOption = None,
    words: Annotated[int, typer.Option(help="Words in a run.")] = 8,
    overlap: Annotated[float, typer.Option(help="Share of an evaluation row's runs that is a leak.")] = 0.5,
    cosine: Annotated[float, typer.Option(help="Cosine from which two rows are the same.")] = 0.92,
    semantic: Annotated[
        bool | None, typer.Option("--semantic/--no-semantic", help="Compare vectors. Default: where they are there.")
    ] = None,
    part: Annotated[TextPart, typer.Option(help="What of a row is compared.")] = "prompt",
    split: Annotated[str, typer.Option(help="Split that is trained on; `all` for every row.")] = "train",
    model: ModelOption = None,
    check: Annotated[str | None, typer.Option("--check", help="Show this earlier check.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when there are leaks.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Look for rows of evaluation sets (and of the dataset's own split `test`) among the training rows."""
    with reported():
        gateway = Gateway.find(data_dir)
        if check is None:
            wanted: dict[str, Any] = {"words": words, "overlap": overlap, "cosine": cosine, "semantic": semantic}
            wanted |= {"part": part, "split": None if split == "all" else split, "model": model}
            wanted |= {"against": [_reference(each) for each in against or []]}
            found = gateway.post(f"{path(dataset)}/leaks", json=wanted)
            found = wait_until_over(gateway, f"{path(dataset)}/leaks/{found['check_id']}", found, lambda _: "checking")
        else:
            found = gateway.get(f"{path(dataset)}/leaks/{check}")
        show(found, json, lambda: _leaks(found))
        if strict and found["leaks"]:
            raise typer.Exit(1)


def _search(
    gateway: Gateway,
    dataset: str,
    method: str,
    cosine: float | None,
    jaccard: float | None,
    part: str,
    against: list[str] | None,
    model: str | None,
) -> Any:
    thresholds = {k: v for k, v in (("cosine", cosine), ("jaccard", jaccard)) if v is not None}
    wanted = {"method": method, "thresholds": thresholds, "part": part, "model": model}
    return gateway.post(f"{path(dataset)}/dedup", json=wanted | {"against": [_reference(a) for a in against or []]})


def _wait(gateway: Gateway, dataset: str, found: Any) -> Any:
    place = f"{path(dataset)}/dedup/{found['dedup_id']}?limit=1"
    return wait_until_over(gateway, place, found, lambda d: f"{d['progress']:.0%} compared")


def _page(
    gateway: Gateway,
    dataset: str,
    dedup: str,
    cosine: float | None,
    jaccard: float | None,
    offset: int,
    limit: int,
) -> Any:
    place = f"{path(dataset)}/dedup/{dedup}"
    page = gateway.get(place, cosine=cosine, jaccard=jaccard, offset=offset, limit=limit)
    if page["dedup"]["state"] == "failed":
        raise Problem.model_validate(page["dedup"]["problem"]).error()
    return page


def _reference(text: str) -> dict[str, str | None]:
    name, _, version = text.partition("@")
    return {"name": name, "version": version or None}


def _removals(page: Any) -> Any:
    columns = ("ROW", "TEXT", "TWIN", "TWIN TEXT", "BY", "COSINE", "JACCARD")
    rows = [
        (
            *(r["row_id"][:12], one_line(r["text"], 50), r["twin_row_id"][:12], one_line(r["twin_text"], 50)),
            *(r["method"], _share(r["cosine"]), _share(r["jaccard"])),
        )
        for r in page["removals"]
    ]
    table = rows_table(columns, rows)
    found = page["dedup"]
    table.caption = f"{page['total']} of {found['rows']} rows would go; dedup {found['dedup_id']} ({found['state']})"
    table.caption_justify = "left"
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _made(made: Any) -> str:
    return f"{made['name']}  {made['state']}  {made['dataset_id']}\n  version  {made['version']}\n  rows     {made['rows']}"


def _leaks(found: Any) -> Any:
    columns = ("EVALUATION ROW", "OF", "TEXT", "TRAINING ROW", "BY", "OVERLAP", "COSINE")
    rows = [
        (
            *(leak["evaluation_row_id"][:12], f"{leak['evaluation_name']}/{leak['evaluation_split']}"),
            *(one_line(leak["evaluation_text"], 60), leak["training_row_id"][:12], leak["method"]),
            *(_share(leak["overlap"]), _share(leak["cosine"])),
        )
        for leak in found["found"]
    ]
    table = rows_table(columns, rows)
    vectors = "" if found["compared_vectors"] else " (vectors were not compared)"
    table.caption = f"{found['leaks']} of {found['evaluation_rows']} evaluation rows leak{vectors}"
    table.caption_justify = "left"
    return table
