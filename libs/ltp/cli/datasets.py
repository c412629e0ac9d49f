"""`ltp dataset`: bring files in, see what is in them, and make new versions of them."""

from __future__ import annotations

import hashlib
import json as text_json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, JsonOption, moment, reported, rows_table, show, size
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Bring files in, see what is in them, and make new versions of them.")

_POLL_SECONDS = 0.3
_PIECE_BYTES = 16 * 1024**2
_TRIES = 5

NameOption = Annotated[str | None, typer.Option(help="What recipes call it. Default: the file's name.")]
MappingOption = Annotated[
    Path | None,
    typer.Option(help="JSON that says which column is which: an entry of a LLaMA-Factory dataset_info.json, or all."),
]
MemberOption = Annotated[str | None, typer.Option(help="Which file of an archive, folder or repository, or entry.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is frozen or rejected.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(help="A file here, hf://OWNER/NAME, modelscope://..., or --server with a path.")
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
            show(found, json, lambda: escape(_described_inspection(found)))
            return
        request = {"name": name, "holdout": holdout, "options": options, **place}
        dataset = gateway.post("/datasets/sources", json=request)
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
def get(ref: str, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one dataset by its id, or a version as NAME or NAME@HASH."""
    with reported():
        gateway = Gateway.find(data_dir)
        if _is_id(ref):
            dataset = gateway.get(f"/datasets/{ref}")
            show(dataset, json, lambda: describe(dataset))
        else:
            version = gateway.get(f"/datasets/{ref}/version")
            show(version, json, lambda: _described_version(version))


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
            show(found, json, lambda: escape(_described_inspection(found)))
            return
        data = {"format": to, "kind": _kind(out), "options": text_json.dumps(options)}
        with _opened(file) as content:
            rows = _fetched(gateway, "POST", "/datasets/convert", out, files={"file": (file.name, content)}, data=data)
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
        params = {"format": to, "kind": _kind(out), **({} if split is None else {"split": split})}
        rows = _fetched(Gateway.find(data_dir), "GET", f"/datasets/{ref}/export", out, params=params)
        show({"path": str(out), "format": to, "rows": rows}, json, lambda: f"{rows} rows as {to}  {out}")


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
    project: Annotated[str | None, typer.Option(help="The project it belongs to.")] = None,
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


def send(gateway: Gateway, file: Path) -> str:
    """Upload a file in pieces, going on where an earlier try stopped; returns the upload's id. Raises NOT_FOUND."""
    with _opened(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        total = content.seek(0, 2)
        known = {"filename": file.name, "size_bytes": total, "sha256": digest}
        upload = gateway.post("/datasets/uploads", json=known)
        path = f"/datasets/uploads/{upload['upload_id']}"
        failures = 0
        while upload["offset"] < total:
            content.seek(upload["offset"])
            piece = content.read(_PIECE_BYTES)
            headers = {
                "Upload-Offset": str(upload["offset"]), "Upload-Sha256": hashlib.sha256(piece).hexdigest(),
                "Content-Type": "application/offset+octet-stream",
            }  # fmt: skip
            try:
                upload = gateway.patch(path, content=piece, headers=headers)
                failures = 0
            except LtpError as error:
                failures += 1
                mends = {ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.CONFLICT, ErrorCode.CHECKSUM_MISMATCH}
                if error.code not in mends or failures == _TRIES:
                    raise
                time.sleep(_POLL_SECONDS * 2**failures)
                upload = gateway.get(path)
    return str(upload["upload_id"])


def upload(gateway: Gateway, file: Path, name: str, holdout: float) -> Any:
    """Send a file and add it as a dataset. Raises NOT_FOUND when there is none."""
    request = {"name": name, "holdout": holdout, "upload_id": send(gateway, file)}
    return gateway.post("/datasets/sources", json=request)


def wait_until_read(gateway: Gateway, dataset: Any) -> Any:
    """Return the dataset once it is frozen. Raises its problem when it is rejected."""
    while dataset["state"] == "uploaded":
        time.sleep(_POLL_SECONDS)
        dataset = gateway.get(f"/datasets/{dataset['dataset_id']}")
    if dataset["state"] == "rejected":
        raise Problem.model_validate(dataset["problem"]).error()
    return dataset


def read_options(mapping: Path | None, member: str | None, name: str, **more: Any) -> dict[str, Any]:
    """The options of reading, as the API takes them. Raises INVALID_REQUEST when the mapping is none."""
    options = {"member": member, **more}
    if mapping is not None:
        options |= _mapping(mapping, member, name)
    return {key: value for key, value in options.items() if value is not None}


def _mapping(file: Path, member: str | None, name: str) -> dict[str, Any]:
    try:
        found = text_json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{file} is no JSON that can be read ({error})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give an entry of a dataset_info.json.") from error
    if not isinstance(found, dict):
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{file} holds no JSON object.", "Give an entry of a dataset_info.json."
        )
    whole = all(isinstance(value, dict) for value in found.values()) and not {"columns", "tags"} & set(found)
    if not whole:
        return {"mapping": found}
    entry = found.get(member or name) or (next(iter(found.values())) if len(found) == 1 else None)
    if entry is None:
        message = f"{file} has {len(found)} entries, and none is called {member or name}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Choose with --member: {', '.join(sorted(found)[:20])}.")
    return {"mapping": entry, "member": None if member in found else member}


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
            f"  format   {dataset['format']}" + (f" ({dataset['evidence']})" if dataset.get("evidence") else ""),
        ]
    return "\n".join(lines)


def _described_version(version: Any) -> str:
    lines = [describe({**version, "state": "frozen"})]
    lines += [f"  source   {version['source']}"] if version["source"] else []
    if version["parents"]:
        lines.append(f"  made of  {', '.join(p[:12] for p in version['parents'])} ({version['reason']})")
    lines.append(f"  project  {version['project']}  {size(version['size_bytes'])}")
    if version["personal"]:
        lines.append(f"  personal {', '.join(version['personal'])}")
    return "\n".join(lines)


def _described_inspection(found: Any) -> str:
    columns = ", ".join(f"{ours} <- {theirs}" for ours, theirs in found["columns"].items())
    lines = [
        f"format   {found['format']} ({found['evidence']})",
        f"columns  {columns}",
        f"files    {', '.join(found['files'])}",
        *(text_json.dumps(row, ensure_ascii=False) for row in found["rows"]),
    ]
    return "\n".join(lines)


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


def _fetched(gateway: Gateway, method: str, path: str, out: Path, **kwargs: Any) -> int:
    staging = out.with_name(f".{out.name}.part")
    try:
        with staging.open("wb") as stream:
            headers = gateway.download(method, path, stream, **kwargs)
        staging.replace(out)
    except OSError as error:
        message = f"{out} cannot be written ({error.strerror})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give a path that can be written.") from error
    finally:
        staging.unlink(missing_ok=True)
    return int(headers.get("X-Rows", 0))


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror})."
        raise LtpError(ErrorCode.NOT_FOUND, message, "Give the path of a file.") from error


def _kind(out: Path) -> str | None:
    ending = out.suffix.lower().removeprefix(".")
    return ending if ending in {"jsonl", "json", "csv", "parquet"} else None


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


def _is_id(ref: str) -> bool:
    return len(ref) == 36 and ref.count("-") == 4


def _stem(source: str) -> str:
    last = source.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    for ending in (".gz", ".tar", ".tgz", ".zip", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".ndjson"):
        last = last.removesuffix(ending)
    return last
