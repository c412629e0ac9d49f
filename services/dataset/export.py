"""Writes rows of the normal form back as any format, so that reading the file again gives the same rows."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.mapping import SHAREGPT_ROLES

Record = dict[str, Any]
FILE_KINDS = ("jsonl", "json", "csv", "parquet")
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
assert set(_SHAREGPT.values()) <= set(SHAREGPT_ROLES)


def write(tables: Iterable[pa.Table], to: str, kind: str, target: Path, name: str) -> int:
    """Write rows (core or frozen columns) as format `to` into `target`, whole by one rename; returns how many.

    `name` is verl's data_source where a row has none of its own. Raises LtpError: INVALID_REQUEST (an unknown format, or
    CSV for rows that are no flat text), DATASET_ROW_INVALID for a row that the format cannot hold.
    """
    convert = _FORMATS.get(to)
    if convert is None:
        message = f"There is no format {to!r} to write."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Known: {', '.join(sorted(_FORMATS))}.")
    if kind not in FILE_KINDS:
        message = f"There is no kind of file {kind!r}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Known: {', '.join(FILE_KINDS)}.")
    records = _records(tables, convert, name)
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if kind == "parquet":
            count = _parquet(records, staging)
        else:
            with staging.open("w", encoding="utf-8", newline="") as out:
                count = {"jsonl": _lines, "json": _array, "csv": _csv}[kind](records, out)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)
    return count


def _records(tables: Iterable[pa.Table], convert: Callable[[Record, str], Record], name: str) -> Iterator[Record]:
    number = 0
    for table in tables:
        wanted = [c for c in table.column_names if c not in {"prompt", "data_source", "reward_model", "extra_info"}]
        for row in table.select(wanted).to_pylist():
            number += 1
            row["number"] = number
            # Fields first: a format's own columns win over a user's field of the same name.
            own = {k: v for k, v in (row.get("fields") or {}).items() if v is not None}
            yield {**own, **_identity(row), **convert(row, name)}


def _identity(row: Record) -> Record:
    """The id a user gave; a name made from the content is made again by the reader."""
    return {"id": row["id"]} if row["id"] is not None and row["id"] != row.get("row_id") else {}


# -- rows ------------------------------------------------------------------------------------------------------------


def _messages(row: Record, name: str) -> Record:
    return {"messages": [_turn(t) for t in _talk(row, "messages")], **_tools(row), **_answer(row, None)}


def _sharegpt(row: Record, name: str) -> Record:
    turns: list[Record] = []
    for turn in _talk(row, "messages"):
        if turn.get("tool_calls"):
            calls = [call["function"] for call in turn["tool_calls"]]
            turns.append({"from": "function_call", "value": json.dumps(calls, ensure_ascii=False)})
        else:
            turns.append({"from": _SHAREGPT[turn["role"]], "value": turn["content"]})
    return {"conversations": turns, **_tools(row), **_answer(row, None)}


def _alpaca(row: Record, name: str) -> Record:
    turns = _without_tools(_talk(row, "messages"), row, "alpaca")
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    rounds = [[turns[i]["content"], turns[i + 1]["content"]] for i in range(0, len(turns) - 2, 2)]
    found: Record = {"instruction": turns[-2]["content"], "input": "", "output": turns[-1]["content"]}
    if system is not None:
        found["system"] = system
    if rounds:
        found["history"] = rounds
    return {**found, **_answer(row, found["output"])}


def _prompt_response(row: Record, name: str) -> Record:
    turns = _without_tools(_talk(row, "messages"), row, "prompt_response")
    prompt = [_turn(turn) for turn in turns[:-1]]
    simple = len(prompt) == 1 and prompt[0]["role"] == "user"
    response = turns[-1]["content"]
    return {"prompt": prompt[0]["content"] if simple else prompt, "response": response, **_answer(row, response)}


def _preference(row: Record, name: str) -> Record:
    chosen, rejected = _talk(row, "chosen"), _talk(row, "rejected")
    prompt = _talk(row, "messages")[: -len(chosen)]
    parts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {key: [_turn(turn) for turn in turns] for key, turns in parts.items()} | _tools(row) | _answer(row, None)


def _kto(row: Record, name: str) -> Record:
    if row["label"] is None:
        raise _unfit(row, "no true or false label", "kto")
    turns = _talk(row, "messages")
    return {
        "prompt": [_turn(turn) for turn in turns[:-1]], "completion": turns[-1]["content"], "label": row["label"],
        **_tools(row), **_answer(row, None),
    }  # fmt: skip


def _text(row: Record, name: str) -> Record:
    if row["text"] is None:
        raise _unfit(row, "no plain text", "text")
    return {"text": row["text"]}


def _verl_rl(row: Record, name: str) -> Record:
    """Verl's own example files: data_source, prompt, ability, reward_model, extra_info."""
    if row["answer"] is None:
        raise _unfit(row, "no reference answer", "verl_rl")
    own = row.get("fields") or {}
    extra = own.get("extra_info")
    index = {"index": row["number"] - 1, "id": row["id"] or row.get("row_id")}
    return {
        "data_source": own.get("data_source") or name,
        "prompt": [_turn(turn) for turn in _talk(row, "messages")[:-1]],
        "ability": own.get("ability") or "",
        "reward_model": {"style": "rule", "ground_truth": row["answer"]},
        "extra_info": json.loads(extra) if extra else index,
    }


def _verl_sft(row: Record, name: str) -> Record:
    return {"messages": [_turn(turn) for turn in _talk(row, "messages")], **_tools(row), **_answer(row, None)}


_FORMATS: dict[str, Callable[[Record, str], Record]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_response": _prompt_response,
    "preference": _preference,
    "kto": _kto,
    "text": _text,
    "verl_sft": _verl_sft,
    "verl_rl": _verl_rl,
    "verl_dpo": _preference,
}
DEFAULT_KIND = {"verl_sft": "parquet", "verl_rl": "parquet", "verl_dpo": "parquet"}


def kind_for(to: str, kind: str | None) -> str:
    """The kind of file that was asked for, else the one the format is used as."""
    return kind or DEFAULT_KIND.get(to, "jsonl")


def _talk(row: Record, name: str) -> list[Record]:
    if row[name] is None:
        what = "no conversation" if name == "messages" else f"no {name!r} answer"
        raise _unfit(row, what, "preference" if name != "messages" else "conversation")
    return [*row[name]]


def _turn(turn: Record) -> Record:
    return {key: value for key, value in turn.items() if key in {"role", "content"} or value is not None}


def _tools(row: Record) -> Record:
    return {} if row["tools_json"] is None else {"tools": row["tools_json"]}


def _answer(row: Record, implied: str | None) -> Record:
    """The reference answer, unless the reader would find it by itself."""
    return {} if row["answer"] is None or row["answer"] == implied else {"answer": row["answer"]}


def _without_tools(turns: list[Record], row: Record, to: str) -> list[Record]:
    if row["tools_json"] is not None or any(t["role"] == "tool" or t.get("tool_calls") for t in turns):
        raise _unfit(row, "tools", to)
    return turns


def _unfit(row: Record, what: str, to: str) -> LtpError:
    message = f"Row {row['number']} ({row.get('row_id') or row['id'] or 'unnamed'}) has {what}, so it is no {to} row."
    return LtpError(ErrorCode.DATASET_ROW_INVALID, message, "Choose another format, or leave such rows out.")


# -- files -----------------------------------------------------------------------------------------------------------


def _lines(records: Iterator[Record], out: IO[str]) -> int:
    count = 0
    for record in records:
        out.write(json.dumps(record, ensure_ascii=False) + "\n")
        count += 1
    return count


def _array(records: Iterator[Record], out: IO[str]) -> int:
    count = 0
    out.write("[")
    for record in records:
        out.write((",\n" if count else "\n") + json.dumps(record, ensure_ascii=False))
        count += 1
    out.write("\n]\n")
    return count


def _csv(records: Iterator[Record], out: IO[str]) -> int:
    count = 0
    writer: Any = None
    for record in records:
        nested = next((key for key, value in record.items() if isinstance(value, list | dict)), None)
        if nested is not None:
            message = f"{nested!r} of row {count + 1} is no plain value, and CSV holds nothing else."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Choose jsonl or parquet.")
        if writer is None:
            writer = csv.DictWriter(out, list(record), restval="")
            writer.writeheader()
        try:
            writer.writerow(record)
        except ValueError as error:
            message = f"Row {count + 1} has other columns than the first: {error}."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Choose jsonl or parquet.") from error
        count += 1
    return count


def _parquet(records: Iterator[Record], target: Path) -> int:
    """Block by block into a spool first, since a column may show its type only in a later block."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        parts: list[tuple[Path, pa.Schema]] = []
        count = 0
        for block in _blocks(records, 8192):
            names = dict.fromkeys(key for record in block for key in record)
            try:
                table = pa.table({name: pa.array([record.get(name) for record in block]) for name in names})
            except (pa.ArrowException, TypeError) as error:
                message = f"A column holds values of several types: {str(error)[:200]}."
                raise LtpError(ErrorCode.INVALID_REQUEST, message, "Choose jsonl.") from error
            part = Path(folder) / f"{len(parts):06}.arrow"
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            parts.append((part, table.schema))
            count += len(block)
        schema = pa.unify_schemas([schema for _, schema in parts], promote_options="permissive")
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for part, _ in parts:
                with pa.OSFile(str(part), "rb") as source, pa.ipc.open_file(source) as reader:
                    table = reader.read_all()
                empty = schema.empty_table()
                writer.write_table(pa.concat_tables([empty, table], promote_options="permissive").select(schema.names))
    return count


def _blocks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    block: list[Record] = []
    for record in records:
        block.append(record)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
