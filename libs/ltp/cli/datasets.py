"""`ltp dataset`: bring files in, see what is in them, and make new versions of them."""

from __future__ import annotations

import json as text_json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ltp.cli.client import Gateway
from ltp.cli.dataset_files import fetched, kind_of, opened, read_options, send, wait_until_read
from ltp.cli.dataset_text import describe, described_inspection, described_version
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show, size

app = typer.Typer(no_args_is_help=True, help="Bring files in, see what is in them, and make new versions of them.")

NameOption = Annotated[str | None, typer.Option(help="What recipes call it. Default: the file's name.")]
MappingOption = Annotated[
    Path | None,
    typer.Option(help="JSON that says which column is which: an entry of a LLaMA-Factory dataset_info.json, or all."),
]
MemberOption = Annotated[str | None, typer.Option(help="Which file of an archive, folder or repository, or entry.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is frozen or rejected.")]


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(help="A file or folder here, hf://OWNER/NAME, modelscope://..., or --server with a path.")
    ],
    name: NameOption = None,
    holdout: Annotated[float, typer.Option(min=0, max=0.99, help="Share of rows held out as split `test`.")] = 0.1,
    server: Annotated[
        bool, typer.Option("--server", help="The path is the server's; relative: in DATA/datasets.")
    ] = False,
    mapping: MappingOption = None,
    member: MemberOption = None,
    project: Annotated[str | None, typer.Option(help="The project it belongs to.")] = None,
    personal: Annotated[list[str] | None, typer.Option(help="A field with personal data; may be repeated.")] = None,
    keep_days: Annotated[int | None, typer.Option(min=1, help="Delete versions older than this.")] = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Bring rows in; they become an immutable version known by its content hash.

    JSONL, JSON, CSV, Parquet, or a zip, tar or gz of them. An interrupted upload goes on where it stopped.
    """
    with reported():
        gateway = Gateway.find(data_dir)
        name = name or _stem(source)
        options = read_options(mapping, member, name, project=project, personal=personal, keep_days=keep_days)
        place = {"source": source} if server or "://" in source else {"upload_id": send(gateway, Path(source))}
        if dry_run:
            found = gateway.post("/datasets/inspect", json={**place, "options": options})
            show(found, json, lambda: escape(described_inspection(found)))
            return
        request = {"name": name, "holdout": holdout, "options": options, **place}
        dataset = gateway.post("/datasets/sources", json=request)
        if wait:
            dataset = wait_until_read(gateway, dataset)
            version = gateway.get(f"/datasets/{dataset['dataset_id']}/version")
            dataset = {**dataset, "evidence": version["evidence"]}
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
def get(ref: str, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one dataset by its id, or a version as NAME or NAME@HASH."""
    with reported():
        gateway = Gateway.find(data_dir)
        if _is_id(ref):
            dataset = gateway.get(f"/datasets/{ref}")
            show(dataset, json, lambda: describe(dataset))
        else:
            version = gateway.get(f"/datasets/{ref}/version")
            show(version, json, lambda: described_version(version))


@app.command()
def versions(
    name: Annotated[str | None, typer.Argument(help="Left out, those of every name.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List frozen versions, newest first, with what each was made of."""
    with reported():
        found = Gateway.find(data_dir).get("/datasets/versions", name=name)["versions"]
        columns = ("NAME", "VERSION", "ROWS", "SIZE", "FORMAT", "MADE OF", "MADE")
        rows = [
            (
                v["name"], v["version"][:12], v["rows"], size(v["size_bytes"]), v["format"],
                ", ".join(parent[:12] for parent in v["parents"]) or v["source"], moment(v["created_at"]),
            )
            for v in found
        ]  # fmt: skip
        show(found, json, lambda: rows_table(columns, rows))


@app.command()
def detected(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List what lies in `datasets/` and `models/` of the data directory; add such a file with `add --server`."""
    with reported():
        found = Gateway.find(data_dir).get("/datasets/detected")
        rows = [(kind, p["name"], size(p["size_bytes"]), p["path"]) for kind in found for p in found[kind]]
        show(found, json, lambda: rows_table(("KIND", "NAME", "SIZE", "PATH"), rows))


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, CSV, Parquet, or an archive of them.")],
    to: Annotated[
        str, typer.Option(help="messages, sharegpt, alpaca, prompt_response, preference, kto, text, verl_...")
    ],
    out: Annotated[Path, typer.Option(help="Where to write; its ending says which kind of file.")],
    mapping: MappingOption = None,
    member: MemberOption = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Convert a file from any known format to another; nothing is added to the platform."""
    with reported():
        gateway = Gateway.find(data_dir)
        options = read_options(mapping, member, file.stem)
        if dry_run:
            upload = send(gateway, file)
            found = gateway.post("/datasets/inspect", json={"upload_id": upload, "options": options})
            show(found, json, lambda: escape(described_inspection(found)))
            return
        data = {"format": to, "kind": kind_of(out), "options": text_json.dumps(options)}
        with opened(file) as content:
            rows = fetched(gateway, "POST", "/datasets/convert", out, files={"file": (file.name, content)}, data=data)
        show({"path": str(out), "format": to, "rows": rows}, json, lambda: f"{rows} rows as {to}  {out}")


@app.command()
def export(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@HASH or an id.")],
    to: Annotated[str, typer.Option(help="messages, sharegpt, alpaca, ..., verl_sft, verl_rl or verl_dpo.")],
    out: Annotated[Path, typer.Option(help="Where to write; its ending says which kind of file.")],
    split: Annotated[str | None, typer.Option(help="Left out, all of them.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Write a version as a file that verl or another tool reads."""
    with reported():
        params = {"format": to, "kind": kind_of(out), **({} if split is None else {"split": split})}
        rows = fetched(Gateway.find(data_dir), "GET", f"/datasets/{ref}/export", out, params=params)
        show({"path": str(out), "format": to, "rows": rows}, json, lambda: f"{rows} rows as {to}  {out}")


def _is_id(ref: str) -> bool:
    return len(ref) == 36 and ref.count("-") == 4


def _stem(source: str) -> str:
    last = source.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    for ending in (".gz", ".tar", ".tgz", ".zip", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".ndjson"):
        last = last.removesuffix(ending)
    return last
