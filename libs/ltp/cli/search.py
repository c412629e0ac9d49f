"""`ltp dataset search` and `ltp dataset embed`: rows by meaning, by words, by any field."""

from __future__ import annotations

import json as json_format
import re
import time
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, err, moment, reported, rows_table, show
from ltp.contracts.dedup import TextPart
from ltp.contracts.search import IndexName, SearchMode
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Name, NAME@VERSION, or id.")]
PartOption = Annotated[TextPart, typer.Option(help="What of a row is compared.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Embedding model: a directory, or openai:NAME. Default: the platform's.")
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is over.")]

_POLL_SECONDS = 0.3
_CONDITION = re.compile(r"\s*([^=!<>~\s]+)\s*(!=|>=|<=|=|>|<|~)\s*(.*)", re.DOTALL)
_OPS = {"=": "eq", "!=": "ne", ">=": "ge", "<=": "le", ">": "gt", "<": "lt", "~": "contains"}


def register(app: typer.Typer) -> None:
    """Add these verbs to `ltp dataset`."""
    app.command()(search)
    app.command()(embed)
    app.command()(embeddings)


def search(
    dataset: DatasetArgument,
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    row: Annotated[str | None, typer.Option("--row", help="Find rows like this row id instead of a text.")] = None,
    mode: Annotated[SearchMode, typer.Option(help="By meaning, by words, or both fused.")] = "hybrid",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Condition on a field: tenant=acme, 'level>=3', 'text~word'.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", help="Rows on a page, 1 to 100.")] = 10,
    cursor: Annotated[str | None, typer.Option(help="Read on from the next_cursor of a page.")] = None,
    part: PartOption = "conversation",
    model: ModelOption = None,
    index: Annotated[IndexName | None, typer.Option(help="Ask this index. Default: the quickest there is.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Find rows like a text or like a row."""
    with reported():
        wanted = {"text": text, "row_id": row, "mode": mode, "limit": limit, "cursor": cursor, "part": part}
        wanted |= {"where": [condition(c) for c in where or []], "model": model, "index": index}
        page = Gateway.find(data_dir).post(f"{path(dataset)}/search", json=wanted)
        show(page, json, lambda: _table(page))


def embed(
    dataset: DatasetArgument,
    part: PartOption = "conversation",
    model: ModelOption = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make the vectors of a dataset's rows, in the background. Texts that are known are not embedded again."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            known = gateway.get(f"{path(dataset)}/embeddings")["embeddings"]
            show(known, json, lambda: f"Would embed the {part} of {dataset}; {len(known)} embeddings of it are there.")
            return
        made = gateway.post(f"{path(dataset)}/embeddings", json={"part": part, "model": model})
        if wait:
            made = wait_until_over(gateway, f"{path(dataset)}/embeddings/{made['embedding_id']}", made, _progress)
        show(made, json, lambda: _describe(made))


def embeddings(dataset: DatasetArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the embeddings of a dataset, newest first."""
    with reported():
        found = Gateway.find(data_dir).get(f"{path(dataset)}/embeddings")["embeddings"]
        columns = ("EMBEDDING", "STATE", "PART", "MODEL", "DONE", "TEXTS", "DIMENSION", "INDEX", "MADE")
        rows = [
            (
                *(e["embedding_id"], e["state"], e["part"], e["model"], e["done"], e["texts"], e["dimension"]),
                *(e["index"], moment(e["created_at"])),
            )
            for e in found
        ]
        show(found, json, lambda: rows_table(columns, rows))


def path(dataset: str) -> str:
    """Where the API keeps a dataset, whatever a user wrote."""
    return f"/datasets/{quote(dataset, safe='@')}"


def wait_until_over(gateway: Gateway, place: str, thing: Any, progress: Callable[[Any], str]) -> Any:
    """Return it when it is completed, telling of its progress on a terminal. Raises its problem when it failed."""
    told = ""
    while thing["state"] in {"queued", "running"}:
        if err.is_terminal and (line := progress(thing)) != told:
            err.print(told := line)
        time.sleep(_POLL_SECONDS)
        try:
            thing = gateway.get(place)
        except LtpError as error:
            # The owner has not heard of it yet, or is being started again.
            if error.code not in {ErrorCode.NOT_FOUND, ErrorCode.SERVICE_UNAVAILABLE}:
                raise
        thing = thing.get("dedup", thing)
    if thing["state"] == "failed":
        raise Problem.model_validate(thing["problem"]).error()
    return thing


def condition(text: str) -> dict[str, Any]:
    """A condition of the command line as the API takes it. Raises INVALID_REQUEST."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        message = f"{text!r} is no condition."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Write field=value, or !=, <, <=, >, >=, ~ (contains).")
    field, op, value = found.groups()
    if op == "=" and value == "null":
        return {"field": field, "op": "missing"}
    if op == "=" and value.startswith("["):
        try:
            return {"field": field, "op": "in", "value": json_format.loads(value)}
        except ValueError as error:
            message = f"{value} is no JSON list ({error})."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, 'Write field=["a", "b"].') from error
    return {"field": field, "op": _OPS[op], "value": value}


def one_line(text: str, width: int = 90) -> str:
    """The beginning of a text for a table."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _table(page: Any) -> Any:
    rows = [(f"{r['score']:.4f}", r["row_id"], r["split"], one_line(r["text"])) for r in page["rows"]]
    table = rows_table(("SCORE", "ROW", "SPLIT", "TEXT"), rows)
    more = f"; next page: --cursor {page['next_cursor']}" if page["next_cursor"] else ""
    table.caption = f"{page['matching']} rows could match, by {page['index']}{more}"
    table.caption_justify = "left"
    return table


def _progress(made: Any) -> str:
    return f"{made['done']} of {made['texts'] or '?'} texts"


def _describe(made: Any) -> str:
    lines = [
        f"{made['name']}  {made['state']}  {made['embedding_id']}",
        f"  rows     {made['rows']} ({made['texts']} distinct texts, {made['cached']} known before, {made['empty']} empty)",
        f"  vectors  {made['dimension']} numbers by {made['model']}; index beside the scan: {made['index'] or 'none'}",
    ]
    if made["truncated"]:
        lines.append(f"  note     {made['truncated']} texts are longer than the model reads")
    if made["problem"]:
        lines.append(f"  note     {made['problem']['message']}")
    return "\n".join(lines)
