"""Turns one raw row, read by its mapping, into the normal form, so that everything after the door sees one kind of row.

Every refusal names the row by its 1-based number in the source, because that is what a person can open and mend.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa

from services.dataset.mapping import Mapping as Columns
from services.dataset.mapping import RowFormat
from services.dataset.schema import CONTENT, CONVERSATIONS, TOOL_TURN, TURN, core_schema
from services.dataset.turns import Turn, a_turn, check_turns, invalid, kind, text_of, turns_of, without_answer

Row = dict[str, Any]


def normalise(raw: Mapping[str, Any], columns: Columns, line: int) -> Row:
    """The core columns of a row (`schema.core_schema`), and the user's own fields as a dict under `fields`.

    The answer is the column `answer`, else `reward_model.ground_truth`, else, for prompt and response, the response.
    A verl RL row has no response: its ground truth becomes the assistant's turn, so that SFT can learn from it too.
    Raises LtpError: DATASET_ROW_INVALID, DATASET_ROW_WITHOUT_ANSWER.
    """
    if columns.format is RowFormat.FROZEN:
        return _frozen(raw, line)
    row: Row = dict.fromkeys(CONTENT)
    row["id"] = _row_id(columns.get(raw, "id"), line)
    row["tools_json"] = _tools(columns.get(raw, "tools"), line)
    row["fields"] = _own_fields(raw, columns, line)
    truth = _scalar(columns.get(raw, "answer"), "answer", line)
    if truth is None:
        truth = _ground_truth(columns.get(raw, "reward_model"), line)
    match columns.format:
        case RowFormat.TEXT:
            row["text"] = _filled(columns.get(raw, "text"), "text", line)
        case RowFormat.PREFERENCE:
            _preference(row, raw, columns, line)
        case RowFormat.MESSAGES | RowFormat.SHAREGPT:
            row["messages"] = _talk(raw, columns, line)
        case RowFormat.KTO:
            row["label"] = _label(columns.get(raw, "label"), line)
            paired = "messages" not in columns.columns
            row["messages"] = _pair(raw, columns, None, line)[0] if paired else _talk(raw, columns, line)
        case RowFormat.VERL_RL:
            if truth is None:
                raise without_answer(line, "'reward_model.ground_truth' is null, and it is the answer")
            row["messages"] = [*_prompt(raw, columns, line), a_turn("assistant", _said(truth, line))]
        case _:
            row["messages"], truth = _pair(raw, columns, truth, line)
    row["answer"] = truth
    if row["messages"] is not None:
        check_turns(row["messages"], line)
    return row


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows as Arrow, with the narrowest types that hold them."""
    talks = (row[name] for row in rows for name in CONVERSATIONS if row[name] is not None)
    wide = any(len(turn) > len(TURN) for talk in talks for turn in talk)
    names = sorted({name for row in rows for name in row["fields"]})
    kinds = {name: _kind_of(row["fields"].get(name) for row in rows) for name in names}
    fields = [pa.field(name, kind) for name, kind in kinds.items() if kind != pa.null()]
    schema = core_schema(TOOL_TURN if wide else TURN, fields)
    columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in CONTENT]
    if fields:
        parts = [pa.array([_as(row["fields"].get(f.name), f.type) for row in rows], f.type) for f in fields]
        columns.append(pa.StructArray.from_arrays(parts, fields=fields))
    return pa.table(columns, schema=schema)


def _kind_of(values: Iterable[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def _as(value: Any, kind: pa.DataType) -> Any:
    """The value as its column's type: numbers among texts are spelt as JSON."""
    if kind == pa.string() and value is not None and not isinstance(value, str):
        return json.dumps(value)
    return value


def _own_fields(raw: Mapping[str, Any], columns: Columns, line: int) -> dict[str, Any]:
    taken = set(columns.columns.values())
    fields = {name: value for name, value in raw.items() if name not in taken and value is not None}
    return {name: _field(name, value, line) for name, value in fields.items()}


def _field(name: str, value: Any, line: int) -> Any:
    """A scalar as it is; lists and objects as JSON, since every row may shape them its own way."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(line, f"'{name}' is {value}, which is no number to compute with")
        return value
    if isinstance(value, str):
        return text_of(value, f"'{name}'", line)
    return text_of(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str), f"'{name}'", line)


def _frozen(raw: Mapping[str, Any], line: int) -> Row:
    row: Row = {name: raw.get(name) for name in CONTENT}
    own = row_id if (row_id := row["id"]) != raw.get("row_id") else None
    row |= {"id": own, "fields": {k: v for k, v in (raw.get("fields") or {}).items() if v is not None}}
    for name in CONVERSATIONS:
        if row[name] is not None:
            row[name] = [{k: v for k, v in turn.items() if k in {"role", "content"} or v} for turn in row[name]]
    if row["messages"] is not None:
        check_turns(row["messages"], line)
    elif row["text"] is None:
        raise invalid(line, "there are neither messages nor text")
    return row


# -- parts of a row --------------------------------------------------------------------------------------------------


def _pair(raw: Mapping[str, Any], columns: Columns, truth: str | None, line: int) -> tuple[list[Turn], str | None]:
    value = columns.get(raw, "response")
    if isinstance(value, list):
        reply = turns_of(value, "response", columns, line)
        return [*_prompt(raw, columns, line), *reply], truth or reply[-1]["content"]
    response = _said(_scalar(value, "response", line), line)
    return [*_prompt(raw, columns, line), a_turn("assistant", response)], response if truth is None else truth


def _preference(row: Row, raw: Mapping[str, Any], columns: Columns, line: int) -> None:
    """`prompt` and the two answers; the prompt of two whole conversations is what they begin with alike."""
    sides = [_side(columns.get(raw, name), name, columns, line) for name in ("chosen", "rejected")]
    if "messages" in columns.columns:
        before = turns_of(columns.get(raw, "messages"), "messages", columns, line)
    elif "prompt" in columns.columns:
        before = _prompt(raw, columns, line)
    else:
        alike = 0
        while alike < min(map(len, sides)) - 1 and sides[0][alike] == sides[1][alike]:
            alike += 1
        before, sides = sides[0][:alike], [side[alike:] for side in sides]
    sides = [
        side[len(before) :] if side[: len(before)] == before and len(side) > len(before) else side for side in sides
    ]
    if not before:
        raise invalid(line, "there is no prompt before 'chosen' and 'rejected'", "Give it as 'prompt'.")
    if sides[0] == sides[1]:
        raise invalid(line, "'chosen' and 'rejected' are equal", "A preference needs two answers; remove the row.")
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        check_turns([*before, *side], line, f"with '{name}', ")
    row |= {"chosen": sides[0], "rejected": sides[1], "messages": [*before, *sides[0]]}


def _side(value: Any, name: str, columns: Columns, line: int) -> list[Turn]:
    if isinstance(value, str) or value is None:
        if value is None or not value.strip():
            raise without_answer(line, f"'{name}' is {'null' if value is None else 'empty'}")
        return [a_turn("assistant", text_of(value, f"'{name}'", line))]
    return turns_of([value] if isinstance(value, Mapping) else value, name, columns, line)


def _talk(raw: Mapping[str, Any], columns: Columns, line: int) -> list[Turn]:
    turns = turns_of(columns.get(raw, "messages"), columns.columns["messages"], columns, line)
    if all(turn["role"] != "assistant" for turn in turns):
        raise without_answer(line, "no message is the assistant's")
    system = columns.get(raw, "system")
    if system and turns[0]["role"] != "system":
        turns.insert(0, a_turn("system", text_of(system, "'system'", line)))
    return turns


def _prompt(raw: Mapping[str, Any], columns: Columns, line: int) -> list[Turn]:
    value, name = columns.get(raw, "prompt"), columns.columns.get("prompt", "prompt")
    if value is None:
        raise invalid(line, "there is no prompt")
    if isinstance(value, list):
        return turns_of(value, name, columns, line)
    text = text_of(value, f"'{name}'", line)
    # Alpaca's form: the input follows the instruction after an empty line.
    if query := columns.get(raw, "query"):
        text = f"{text}\n\n" + text_of(query, f"'{columns.columns['query']}'", line)
    system = columns.get(raw, "system")
    before = [a_turn("system", text_of(system, "'system'", line))] if system else []
    return [*before, *_history(columns.get(raw, "history"), line), a_turn("user", text)]


def _history(value: Any, line: int) -> list[Turn]:
    """Earlier rounds: a list of pairs of question and answer."""
    if not value:
        return []
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        raise invalid(line, "'history' is not a list of pairs of question and answer")
    roles = ("user", "assistant")
    return [
        a_turn(role, text_of(text, f"'history' round {number}", line))
        for number, pair in enumerate(cast("list[list[Any]]", value), start=1)
        for role, text in zip(roles, pair, strict=True)
    ]


def _row_id(given: Any, line: int) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise invalid(line, f"'id' is {'empty' if given == '' else kind(given)}", "Give a string or a whole number.")
    return text_of(str(given), "'id'", line)


def _tools(value: Any, line: int) -> str | None:
    if value in (None, "", []):
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise invalid(line, "'tools' is a string and no JSON", "Give a list of tools.") from error
    if not isinstance(found, list):
        raise invalid(line, f"'tools' is {kind(found)}, not a list")
    return json.dumps(found, ensure_ascii=False) if found else None


def _label(value: Any, line: int) -> bool:
    if not isinstance(value, bool):
        raise invalid(line, f"the label is {kind(value)}, not true or false")
    return value


def _scalar(value: Any, what: str, line: int) -> str | None:
    """Numbers are common as reference answers and have one plain spelling; anything else must be a string."""
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(line, f"'{what}' is {value}, which is no number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, f"'{what}'", line)


def _ground_truth(reward: Any, line: int) -> str | None:
    if reward is None:
        return None
    if not isinstance(reward, Mapping):
        raise invalid(line, f"'reward_model' is {kind(reward)}, not an object")
    return _scalar(cast("Mapping[str, Any]", reward).get("ground_truth"), "reward_model.ground_truth", line)


def _said(response: str | None, line: int) -> str:
    if response is None or not response.strip():
        raise without_answer(line, "the response is empty" if response is not None else "the response is null")
    return response


def _filled(value: Any, what: str, line: int) -> str:
    text = text_of(value, f"'{what}'", line)
    if not text.strip():
        raise invalid(line, f"'{what}' is empty")
    return text
