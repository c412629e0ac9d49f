"""The one normal form of a row as Arrow columns, and the name of a row that follows from its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROW_ID_BYTES = 16
_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
    ]
)
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
# Only datasets that call tools have the wider turn: many chat templates ask whether the key is there, not what it holds.
TOOL_TURN = pa.struct([*TURN, ("tool_calls", pa.list_(_CALL)), ("tool_call_id", pa.string()), ("name", pa.string())])

# What is known of a row while it is on its way, before it has a place in a split. `fields` is there where any row has one.
KEY, POSITION, SPLIT = "key", "position", "split"
_CORE = {
    "id": pa.string(),
    "messages": pa.list_(TURN),
    "answer": pa.string(),
    "chosen": pa.list_(TURN),
    "rejected": pa.list_(TURN),
    "label": pa.bool_(),
    "text": pa.string(),
    "tools_json": pa.string(),
}
CONTENT = tuple(_CORE)
CONVERSATIONS = ("messages", "chosen", "rejected")


def core_schema(turn: pa.DataType = TURN, fields: Iterable[pa.Field] = ()) -> pa.Schema:
    """The columns of a row's content, with `turn` as the type of a message and `fields` as those of the user's own."""
    own = list(fields)
    columns = [(name, pa.list_(turn) if name in CONVERSATIONS else kind) for name, kind in _CORE.items()]
    return pa.schema([*columns, *([("fields", pa.struct(own))] if own else [])])


def frozen_schema(turn: pa.DataType = TURN, fields: Iterable[pa.Field] = ()) -> pa.Schema:
    """The columns of a frozen split.

    `messages` is what verl 0.9.1's MultiTurnSFTDataset reads; `prompt`, `data_source`, `reward_model` and `extra_info`
    are what its RLHFDataset and reward manager read (docs/training.md). One file serves both. `row_id` names the
    content (32 hexadecimal digits), `id` is the user's name of the row, else the row_id again.
    """
    columns = [pa.field("row_id", pa.string()), *core_schema(turn, fields)]
    columns.insert(3, pa.field("prompt", pa.list_(turn)))
    verl = [
        pa.field("data_source", pa.string()),
        pa.field("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        pa.field("extra_info", pa.struct([("id", pa.string()), ("index", pa.int64())])),
    ]
    return pa.schema([*columns, *verl])


def merged_fields(schemas: Iterable[pa.Schema]) -> list[pa.Field]:
    """The user's fields over several parts of a dataset, each with a type that holds the values of all parts."""
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema.field("fields").type if "fields" in schema.names else ():
            found[field.name] = _common(found.get(field.name, pa.null()), field.type)
    return [pa.field(name, pa.string() if kind == pa.null() else kind) for name, kind in sorted(found.items())]


def merged_turn(schemas: Iterable[pa.Schema]) -> pa.DataType:
    """The message type that holds those of all parts."""
    wide = any(schema.field(name).type != pa.list_(TURN) for schema in schemas for name in CONVERSATIONS)
    return TOOL_TURN if wide else TURN


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or other == pa.null():
        return one
    if one == pa.null():
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of `schema`: narrower turns widened, missing fields null."""
    return pa.table([_conformed(table, field) for field in schema], schema=schema)


def _conformed(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    array = flat(column)
    if isinstance(field.type, pa.ListType) and isinstance(array.type, pa.ListType):
        turns = _struct(array.values, field.type.value_type)
        return pa.ListArray.from_arrays(array.offsets, turns, type=field.type, mask=_nulls(array))
    if pa.types.is_struct(field.type):
        return _struct(array, field.type)
    return array.cast(field.type)


def _struct(array: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    have = {field.name: i for i, field in enumerate(array.type)}
    parts = [array.field(have[f.name]).cast(f.type) if f.name in have else pa.nulls(len(array), f.type) for f in kind]
    return pa.StructArray.from_arrays(parts, fields=list(kind))


def _nulls(array: pa.Array) -> pa.Array | None:
    return pc.is_null(array) if array.null_count else None


def flat(column: pa.ChunkedArray | pa.Array) -> Any:
    """One array with offset zero, so that its children line up with it."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if array.offset == 0 and not (isinstance(array, pa.ListArray) and _is_ragged(array)):
        return array
    return array.take(pa.array(np.arange(len(array))))


def _is_ragged(array: pa.ListArray) -> bool:
    """Whether the children reach beyond what the lists hold, as those of a slice do."""
    return len(array) == 0 or array.offsets[0].as_py() != 0 or array.offsets[-1].as_py() != len(array.values)


# -- names ---------------------------------------------------------------------------------------------------------


def row_keys(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(names, given) of rows in the core schema: `names` is (n, 16) uint8, `given` whether the user named the row.

    The name is the first 128 bits of SHA-256 over the content, every part with its length before it; where the user
    gave an id, of SHA-256 over that digest and the id. An id that equals the content's name is none: a frozen file
    freezes to itself.
    """
    names = [hashlib.sha256(row).digest()[:ROW_ID_BYTES] for row in row_bytes(table).to_pylist()]
    ids: list[str | None] = table.column("id").to_pylist()
    given = np.fromiter(
        (i is not None and i != name.hex() for i, name in zip(ids, names, strict=True)), bool, count=len(ids)
    )
    for at in np.flatnonzero(given).tolist():
        names[at] = hashlib.sha256(names[at] + str(ids[at]).encode()).digest()[:ROW_ID_BYTES]
    return np.frombuffer(b"".join(names), dtype=np.uint8).reshape(-1, ROW_ID_BYTES), given


def row_bytes(table: pa.Table) -> pa.Array:
    """The content of each row as bytes that no other content has, computed a column at a time."""
    parts: list[Any] = []
    for name in CONTENT[1:]:
        array = flat(table.column(name))
        if array.null_count == len(array):
            continue
        text = _conversation(array) if name in CONVERSATIONS else array.cast(pa.string())
        parts += _tagged(name, text)
    if "fields" in table.column_names:
        fields = flat(table.column("fields"))
        for name, array in sorted(zip([f.name for f in fields.type], fields.flatten(), strict=True)):
            if array.null_count < len(array):
                parts += _tagged(f"fields.{name}", _plain(array))
    if not parts:
        return pa.array([b""] * table.num_rows)
    return pc.binary_join_element_wise(*[part.cast(pa.binary()) for part in parts], b"")


def _tagged(name: str, text: pa.Array) -> list[pa.Array]:
    """The column's name, the length and the value; nothing where the value is null."""
    tag = pc.binary_join_element_wise(f"{name}:", pc.binary_length(text).cast(pa.string()), ":", "")
    return [pc.fill_null(tag, ""), pc.fill_null(text, "")]


def _plain(array: pa.Array) -> pa.Array:
    """A number has one spelling, whether its neighbours are whole or not."""
    numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    return (array.cast(pa.float64(), safe=False) if numeric else array).cast(pa.string())


def _conversation(array: pa.ListArray) -> pa.Array:
    turns = array.values
    content = turns.field("content")
    length = pc.fill_null(pc.binary_length(content).cast(pa.string()), "-")
    parts = [turns.field("role"), length, pc.fill_null(content, "")]
    if turns.type == TOOL_TURN:
        extra = zip(*(turns.field(name).to_pylist() for name in ("tool_calls", "tool_call_id", "name")), strict=True)
        parts.append(pa.array([json.dumps(v, sort_keys=True) if any(v) else "" for v in extra], pa.string()))
        # A turn without a tool is spelt as in a dataset without tools.
        parts[-1] = pc.if_else(pc.equal(parts[-1], ""), "", pc.binary_join_element_wise("|", parts[-1], ""))
        text = pc.binary_join_element_wise(pc.binary_join_element_wise(*parts[:3], ":"), parts[3], "")
    else:
        text = pc.binary_join_element_wise(*parts, ":")
    return pc.binary_join(pa.ListArray.from_arrays(array.offsets, text, mask=_nulls(array)), ";")


def hexadecimal(keys: np.ndarray) -> pa.Array:
    """(n, 16) uint8 -> n strings of 32 digits."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = np.empty((len(keys), 2 * ROW_ID_BYTES), dtype=np.uint8)
    text[:, 0::2], text[:, 1::2] = digits[keys >> 4], digits[keys & 15]
    offsets = np.arange(len(keys) + 1, dtype=np.int32) * (2 * ROW_ID_BYTES)
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(text))


def from_hexadecimal(row_ids: Sequence[str]) -> np.ndarray:
    """N strings of 32 digits -> (n, 16) uint8."""
    return np.frombuffer(bytes.fromhex("".join(row_ids)), dtype=np.uint8).reshape(-1, ROW_ID_BYTES)


def without_last(array: pa.ListArray) -> pa.ListArray:
    """Each conversation without its last turn: the prompt of which that turn is the answer."""
    offsets = array.offsets.to_numpy()
    lengths = np.diff(offsets)
    keep = np.ones(int(offsets[-1]), dtype=bool)
    keep[offsets[1:][lengths > 0] - 1] = False
    starts = np.concatenate([[0], np.cumsum(np.maximum(lengths - 1, 0))]).astype(np.int32)
    turns = array.values.filter(pa.array(keep))
    return pa.ListArray.from_arrays(pa.array(starts), turns, type=array.type, mask=_nulls(array))
