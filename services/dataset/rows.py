"""Turns a raw row of any known format into one normal form, so that everything after the door sees one kind of row.

Every refusal names the row by its 1-based number in the source, because that is what a person can open and mend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.recipe import canonical

PROMPT_KEYS = ("prompt", "question", "instruction")
RESPONSE_KEYS = ("response", "completion", "output")
ROLES = ("system", "user", "assistant")
EXPECTED = (
    "Expected one of: 'messages' (a list of role and content); "
    "'prompt', 'question' or 'instruction' with 'response', 'completion' or 'output'; "
    "verl's RL rows, 'prompt' with 'reward_model': {'ground_truth': ...}."
)


class RowFormat(StrEnum):
    """The formats a row may come in."""

    MESSAGES = "messages"
    PROMPT_RESPONSE = "prompt_response"
    VERL_RL = "verl_rl"


@dataclass(frozen=True)
class Detection:
    """A format and the keys that gave it away."""

    format: RowFormat
    evidence: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """The normal form: `messages` ends with the assistant's turn, `prompt` is what precedes it."""

    id: str
    messages: tuple[Message, ...]
    prompt: tuple[Message, ...]
    answer: str | None


def detect(raw: Mapping[str, Any], line: int) -> Detection:
    """The format of one row. A null counts as absent, since Parquet has a column for every row."""
    present = {key for key, value in raw.items() if value is not None}
    if "messages" in present:
        return Detection(RowFormat.MESSAGES, "key 'messages'")
    prompt_key = _only(PROMPT_KEYS, present, line)
    response_key = _only(RESPONSE_KEYS, present, line) or next((key for key in RESPONSE_KEYS if key in raw), None)
    if prompt_key and response_key:
        return Detection(RowFormat.PROMPT_RESPONSE, f"keys '{prompt_key}' and '{response_key}'")
    if prompt_key and "reward_model" in present:
        return Detection(RowFormat.VERL_RL, f"keys '{prompt_key}' and 'reward_model'")
    if prompt_key and "answer" in raw:
        return Detection(RowFormat.PROMPT_RESPONSE, f"keys '{prompt_key}' and 'answer'")
    found = ", ".join(f"'{key}'" for key in sorted(raw)) or "no keys"
    raise LtpError(ErrorCode.DATASET_FORMAT_UNKNOWN, f"Row {line} has {found}: no known format.", EXPECTED)


def normalise(raw: Mapping[str, Any], row_format: RowFormat, line: int) -> Row:
    """The normal form of a row of `row_format`.

    The answer is the field `answer`, else `reward_model.ground_truth`, else, for prompt and response, the response.
    A verl RL row has no response: its ground truth becomes the assistant's turn, so that SFT can learn from it too.
    """
    truth = _scalar(raw.get("answer"), "answer", line)
    if truth is None:
        truth = _ground_truth(raw, line)
    if row_format is RowFormat.MESSAGES:
        messages = _conversation(raw["messages"], line)
    else:
        response = truth if row_format is RowFormat.VERL_RL else _response(raw, truth, line)
        messages = (*_prompt(raw, line), Message("assistant", _said(response, line)))
        truth = response if truth is None else truth
    _check_turns(messages, line)
    return Row(_row_id(raw, messages, truth, line), messages, messages[:-1], truth)


def _only(keys: tuple[str, ...], present: set[str], line: int) -> str | None:
    found = [key for key in keys if key in present]
    if len(found) > 1:
        names = " and ".join(f"'{key}'" for key in found)
        raise LtpError(
            ErrorCode.DATASET_FORMAT_UNKNOWN,
            f"Row {line} has {names}: which of them is meant is not clear.",
            "Keep one of them.",
        )
    return found[0] if found else None


def _invalid(line: int, what: str, hint: str = "") -> LtpError:
    return LtpError(ErrorCode.DATASET_ROW_INVALID, f"Row {line}: {what}.", hint)


def _without_answer(line: int, what: str) -> LtpError:
    hint = "Every row needs an assistant's response to learn from; complete the row or remove it."
    return LtpError(ErrorCode.DATASET_ROW_WITHOUT_ANSWER, f"Row {line}: {what}.", hint)


def _text(value: object, what: str, line: int) -> str:
    if not isinstance(value, str):
        raise _invalid(line, f"{what} is {_kind(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(line, f"{what} holds half of a surrogate pair, which is no text") from None
    return value


def _kind(value: object) -> str:
    names: dict[type[Any], str] = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _scalar(value: object, what: str, line: int) -> str | None:
    """Numbers are common as reference answers and have one plain spelling; anything else must be a string."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(value, f"'{what}'", line)


def _ground_truth(raw: Mapping[str, Any], line: int) -> str | None:
    reward: object = raw.get("reward_model")
    if reward is None:
        return None
    if not isinstance(reward, Mapping):
        raise _invalid(line, f"'reward_model' is {_kind(reward)}, not an object")
    return _scalar(cast("Mapping[str, object]", reward).get("ground_truth"), "reward_model.ground_truth", line)


def _response(raw: Mapping[str, Any], truth: str | None, line: int) -> str | None:
    keys = [key for key in RESPONSE_KEYS if key in raw]
    value = next((raw[key] for key in keys if raw[key] is not None), None)
    # Rows of question and answer alone, as GSM8K's: the answer is the response.
    return _scalar(value, "response", line) if keys else truth


def _said(response: str | None, line: int) -> str:
    if response is None or not response.strip():
        raise _without_answer(line, "the response is empty" if response is not None else "the response is null")
    return response


def _prompt(raw: Mapping[str, Any], line: int) -> tuple[Message, ...]:
    key = next((key for key in PROMPT_KEYS if raw.get(key) is not None), None)
    if key is None:
        raise _invalid(line, "there is no prompt")
    if isinstance(raw[key], list):
        return _messages(raw[key], key, line)
    text = _text(raw[key], f"'{key}'", line)
    if raw.get("history"):
        raise _invalid(line, "'history' is not read", "Give the whole conversation as 'messages'.")
    # Alpaca's form: the input follows the instruction after an empty line.
    if key == "instruction" and raw.get("input"):
        text = f"{text}\n\n" + _text(raw["input"], "'input'", line)
    system = raw.get("system")
    before = (Message("system", _text(system, "'system'", line)),) if system else ()
    return (*before, Message("user", text))


def _messages(value: object, key: str, line: int) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _invalid(line, f"'{key}' is {_kind(value)}, not a list of messages")
    items = cast("list[object]", value)
    if not items:
        raise _invalid(line, f"'{key}' is empty")
    return tuple(_message(item, number, line) for number, item in enumerate(items, start=1))


def _message(value: object, number: int, line: int) -> Message:
    if not isinstance(value, Mapping):
        raise _invalid(line, f"message {number} is {_kind(value)}, not an object of role and content")
    item = cast("Mapping[str, object]", value)
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise _invalid(line, f"message {number} has the unknown role {role!r}", f"Known roles: {', '.join(ROLES)}.")
    if item.get("tool_calls"):
        raise _invalid(line, f"message {number} calls tools, which are not supported yet", "Remove 'tool_calls'.")
    if role == "assistant" and content is None:
        raise _without_answer(line, f"the assistant's message {number} is null")
    return Message(cast("str", role), _text(content, f"the content of message {number}", line))


def _conversation(value: object, line: int) -> tuple[Message, ...]:
    messages = _messages(value, "messages", line)
    if all(message.role != "assistant" for message in messages):
        raise _without_answer(line, "no message is the assistant's")
    return messages


def _check_turns(messages: tuple[Message, ...], line: int) -> None:
    """After an optional system message, user and assistant take turns: most chat templates refuse anything else."""
    offset = 1 if messages[0].role == "system" else 0
    for index, message in enumerate(messages[offset:], start=offset):
        due = "assistant" if (index - offset) % 2 else "user"
        if message.role != due:
            before = messages[index - 1].role if index else None
            twice = f"messages {index} and {index + 1} are two {message.role} turns in a row"
            alone = f"message {index + 1} is the {message.role}'s, where the {due}'s turn was due"
            raise _invalid(line, twice if before == message.role else alone)
        if not message.content.strip():
            what = f"the {message.role}'s message {index + 1} is empty"
            raise _without_answer(line, what) if message.role == "assistant" else _invalid(line, what)
    if messages[-1].role != "assistant":
        raise _invalid(line, f"the last turn is the {messages[-1].role}'s, not the assistant's", "End with the answer.")


def _row_id(raw: Mapping[str, Any], messages: tuple[Message, ...], answer: str | None, line: int) -> str:
    given: object = raw.get("id")
    if given is None:
        return content_id(messages, answer)
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise _invalid(line, f"'id' is {'empty' if given == '' else _kind(given)}", "Give a string or a whole number.")
    return _text(str(given), "'id'", line)


def content_id(messages: tuple[Message, ...], answer: str | None) -> str:
    """A name from the content: the first 128 bits of its SHA-256, as 32 hexadecimal digits."""
    content = {"messages": [[message.role, message.content] for message in messages], "answer": answer}
    return hashlib.sha256(canonical(content)).hexdigest()[:32]
