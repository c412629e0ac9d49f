"""The short way for blocks of JSONL in the commonest forms: whole columns at a time, without one Python object per row.

It takes a block only when nothing in it is unusual. Everything else, every error among it, goes the long way row by
row (`rows.normalise`), which says what is wrong and where; both give the same rows.
"""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Mapping as Raw
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from services.dataset.mapping import Mapping, RowFormat
from services.dataset.schema import CONTENT, TURN, flat
from services.dataset.source import Lines

_ROLES = pa.array(["system", "user", "assistant"])
_SYSTEM, _USER, _ASSISTANT = 0, 1, 2
_SCALARS = (pa.string(), pa.int64(), pa.float64(), pa.bool_())


def raw_schema(rows: list[Raw[str, Any]]) -> pa.Schema | None:
    """The types of the raw rows' columns; None when they vary, or are not what the short way reads."""
    try:
        schema = pa.Table.from_pylist([dict(row) for row in rows]).schema if rows else None
    except (pa.ArrowException, TypeError, ValueError):
        return None
    if schema is None or any({*row} - {*schema.names} for row in rows):
        return None
    return schema


def columns_of(block: Lines, schema: pa.Schema, mapping: Mapping) -> pa.Table | None:
    """The block in the core schema, or None when it must go the long way."""
    if mapping.format not in _READERS or not _is_utf8(block.data):
        return None
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    size = pj.ReadOptions(block_size=len(block.data) + 1, use_threads=False)
    try:
        raw = pj.read_json(pa.BufferReader(block.data), read_options=size, parse_options=options)
    except pa.ArrowException:
        return None
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    if raw.num_rows != lines:
        return None
    columns = {name: flat(raw.column(name)) for name in raw.column_names}
    if any(pa.types.is_null(column.type) for column in columns.values()) or _has_nan(columns):
        return None
    return _READERS[mapping.format](columns, mapping)


def _is_utf8(data: bytes) -> bool:
    try:
        pa.array([data], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _has_nan(columns: dict[str, Any]) -> bool:
    floats = (column for column in columns.values() if column.type == pa.float64())
    # NaN and infinity are no JSON, and pyarrow reads them all the same.
    return any(not (pc.all(pc.is_finite(column)).as_py() or column.null_count == len(column)) for column in floats)


def _talk(columns: dict[str, Any], mapping: Mapping) -> pa.Table | None:
    if {"system", "tools", "reward_model"} & {*mapping.columns}:
        return None
    array = columns[mapping.columns["messages"]]
    if not isinstance(array, pa.ListArray) or array.null_count:
        return None
    turns = array.values
    names = {f.name for f in turns.type} if pa.types.is_struct(turns.type) else set()
    if names != {mapping.role_key, mapping.content_key} or turns.null_count:
        return None
    said, content = turns.field(mapping.role_key), turns.field(mapping.content_key)
    roles = _role_codes(said, mapping)
    if roles is None or content.type != pa.string() or content.null_count or not _all_said(content):
        return None
    if not _alternate(array.offsets.to_numpy(), roles):
        return None
    named = _ROLES.take(pa.array(roles))
    messages = pa.ListArray.from_arrays(array.offsets, pa.StructArray.from_arrays([named, content], fields=list(TURN)))
    return _core(columns, mapping, messages, answer=None)


def _role_codes(said: Any, mapping: Mapping) -> np.ndarray | None:
    """(turns,) 0 system, 1 user, 2 assistant; None when another role is among them."""
    if said.type != pa.string():
        return None
    encoded = said.dictionary_encode()
    words = [mapping.roles.get(word) if word is not None else None for word in encoded.dictionary.to_pylist()]
    known = [_ROLES.index(word).as_py() if word else -1 for word in words]
    if -1 in known or encoded.null_count:
        return None
    return np.array(known, dtype=np.int8)[encoded.indices.to_numpy()]


def _alternate(offsets: np.ndarray, roles: np.ndarray) -> bool:
    """As `turns.check_turns`: system at most first, then user and assistant in turns, the assistant last."""
    lengths = np.diff(offsets)
    if not len(lengths) or lengths.min() < 2:
        return False
    first = offsets[:-1]
    system = (roles[first] == _SYSTEM).astype(np.int64)
    place = np.arange(len(roles)) - np.repeat(first + system, lengths)
    due = np.where(place < 0, _SYSTEM, np.where(place % 2 == 0, _USER, _ASSISTANT))
    return bool((roles == due).all() and ((lengths - system) % 2 == 0).all() and (lengths - system >= 2).all())


def _all_said(text: Any) -> bool:
    """No text is null, empty or blank."""
    if text.null_count or not len(text) or pc.min(pc.binary_length(text)).as_py() == 0:
        return False
    return not pc.any(pc.utf8_is_space(text)).as_py()


def _pair(columns: dict[str, Any], mapping: Mapping) -> pa.Table | None:
    if {"system", "history", "tools", "reward_model"} & {*mapping.columns}:
        return None
    prompt, response = (columns[mapping.columns[name]] for name in ("prompt", "response"))
    if prompt.type != pa.string() or response.type != pa.string():
        return None
    if not (_all_said(prompt) and _all_said(response)):
        return None
    if (query := mapping.columns.get("query")) is not None:
        more = columns[query]
        if more.type != pa.string():
            return None
        more = pc.fill_null(more, "")
        joined = pc.binary_join_element_wise(prompt, more, "\n\n")
        prompt = pc.if_else(pc.equal(pc.binary_length(more), 0), prompt, joined)
    count = len(prompt)
    order = np.arange(2 * count).reshape(2, count).T.reshape(-1)
    content = pa.concat_arrays([prompt, response]).take(pa.array(order))
    roles = _ROLES.take(pa.array(np.tile(np.array([_USER, _ASSISTANT]), count)))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * 2)
    messages = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([roles, content], fields=list(TURN)))
    return _core(columns, mapping, messages, answer=response)


def _core(columns: dict[str, Any], mapping: Mapping, messages: Any, answer: Any) -> pa.Table | None:
    """The core table, with what no column of the mapping names as fields."""
    count = len(messages)
    given = columns.get(mapping.columns.get("answer", ""))
    if given is not None:
        if given.type not in {pa.string(), pa.int64()}:
            return None
        given = given.cast(pa.string())
        answer = given if answer is None else pc.coalesce(given, answer)
    ids = columns.get(mapping.columns.get("id", ""))
    if ids is not None and (ids.type not in {pa.string(), pa.int64()} or (ids.type == pa.string() and _has_empty(ids))):
        return None
    taken = {*mapping.columns.values()}
    own = {name: column for name, column in columns.items() if name not in taken and column.null_count < count}
    if any(column.type not in _SCALARS for column in own.values()):
        return None
    made: dict[str, Any] = {
        "id": None if ids is None else ids.cast(pa.string()),
        "messages": messages,
        "answer": answer,
        "label": None,
    }
    empty = {"label": pa.bool_(), **dict.fromkeys(("chosen", "rejected"), pa.list_(TURN))}
    parts = [pa.nulls(count, empty.get(n, pa.string())) if made.get(n) is None else made[n] for n in CONTENT]
    names = list(CONTENT)
    if own:
        names.append("fields")
        ordered = sorted(own.items())
        fields = [pa.field(name, column.type) for name, column in ordered]
        parts.append(pa.StructArray.from_arrays([column for _, column in ordered], fields=fields))
    return pa.table(parts, names=names)


def _has_empty(ids: Any) -> bool:
    return ids.null_count < len(ids) and pc.min(pc.binary_length(ids)).as_py() == 0


_READERS = {
    RowFormat.MESSAGES: _talk,
    RowFormat.SHAREGPT: _talk,
    RowFormat.ALPACA: _pair,
    RowFormat.PROMPT_RESPONSE: _pair,
}
