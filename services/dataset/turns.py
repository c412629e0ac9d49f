"""The messages of one row: roles, calls of tools, and the order that chat templates take.

Every refusal names the row by its 1-based number in the source, because that is what a person can open and mend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.mapping import Mapping as Columns

Turn = dict[str, Any]


def a_turn(role: str, content: str) -> Turn:
    """One message."""
    return {"role": role, "content": content}


def turns_of(value: Any, key: str, columns: Columns, line: int) -> list[Turn]:
    """The messages of a conversation under `key`. Raises DATASET_ROW_INVALID, DATASET_ROW_WITHOUT_ANSWER with row and message."""
    if not isinstance(value, list):
        raise invalid(line, f"'{key}' is {kind(value)}, not a list of messages")
    if not value:
        raise invalid(line, f"'{key}' is empty")
    return [_message(item, number, columns, line) for number, item in enumerate(cast("list[Any]", value), start=1)]


def _message(item: Any, number: int, columns: Columns, line: int) -> Turn:
    if not isinstance(item, Mapping):
        what = f"{columns.role_key} and {columns.content_key}"
        raise invalid(line, f"message {number} is {kind(item)}, not an object of {what}")
    said, content = item.get(columns.role_key), item.get(columns.content_key)
    role = columns.roles.get(said) if isinstance(said, str) else None
    if role is None:
        known = ", ".join(columns.roles)
        raise invalid(line, f"message {number} has the unknown role {said!r}", f"Known roles: {known}.")
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content, number, line)}
    turn = a_turn(role, "")
    if calls := item.get("tool_calls"):
        turn["tool_calls"] = _calls(calls, number, line)
    elif role == "assistant" and content is None:
        raise without_answer(line, f"the assistant's message {number} is null")
    if content is not None or not calls:
        turn["content"] = text_of(content, f"the content of message {number}", line)
    for key in ("tool_call_id", "name"):
        if item.get(key):
            turn[key] = text_of(item[key], f"'{key}' of message {number}", line)
    return turn


def _calls(value: Any, number: int, line: int) -> list[dict[str, Any]]:
    """Calls of tools in OpenAI's form, with the arguments as JSON text."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        return [_call(call) for call in (found if isinstance(found, list) else [found])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"message {number} calls a tool in a form that is not known"
        raise invalid(line, message, "Give each call a name and arguments.") from error


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments: Any = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    named = {"name": str(function["name"]), "arguments": text}
    return {"id": call.get("id"), "type": call.get("type") or "function", "function": named}


def check_turns(turns: Sequence[Turn], line: int, where: str = "") -> None:
    """After an optional system message, user and assistant take turns: most chat templates refuse anything else.

    A tool's answer stands where a user's turn would, once the assistant called it; it may be one of several.
    """
    offset = 1 if turns[0]["role"] == "system" else 0
    before: Turn | None = None
    for number, turn in enumerate(turns[offset:], start=offset + 1):
        role = turn["role"]
        may = _next_roles(before)
        if role not in may:
            twice = before is not None and before["role"] == role
            what = (
                f"messages {number - 1} and {number} are two {role} turns in a row"
                if twice
                else f"message {number} is the {role}'s, where the {' or '.join(may)}'s turn was due"
            )
            raise invalid(line, where + what)
        if not (turn["content"] or "").strip() and not turn.get("tool_calls") and role != "tool":
            what = f"{where}the {role}'s message {number} is empty"
            raise without_answer(line, what) if role == "assistant" else invalid(line, what)
        before = turn
    if before is None or before["role"] != "assistant":
        last = "system" if before is None else before["role"]
        raise invalid(line, f"{where}the last turn is the {last}'s, not the assistant's", "End with the answer.")


def _next_roles(before: Turn | None) -> tuple[str, ...]:
    if before is None:
        return ("user",)
    if before["role"] == "assistant":
        return ("tool",) if before.get("tool_calls") else ("user",)
    return ("tool", "assistant") if before["role"] == "tool" else ("assistant",)


def text_of(value: Any, what: str, line: int) -> str:
    """The value, when it is a string that can be written as UTF-8. Raises DATASET_ROW_INVALID."""
    if not isinstance(value, str):
        raise invalid(line, f"{what} is {kind(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(line, f"{what} holds half of a surrogate pair, which is no text") from None
    return value


def kind(value: object) -> str:
    """What JSON calls a value."""
    names: dict[type[Any], str] = {
        type(None): "null", bool: "a boolean", int: "a number", float: "a number",
        str: "a string", list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def invalid(line: int, what: str, hint: str = "Mend the row or remove it.") -> LtpError:
    """The error of a row."""
    return LtpError(ErrorCode.DATASET_ROW_INVALID, f"Row {line}: {what}.", hint)


def without_answer(line: int, what: str) -> LtpError:
    """The error of a row that has nothing to learn from."""
    hint = "Every row needs an assistant's response to learn from; complete the row or remove it."
    return LtpError(ErrorCode.DATASET_ROW_WITHOUT_ANSWER, f"Row {line}: {what}.", hint)
