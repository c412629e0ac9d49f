"""Which column of a raw row means what: found out from the row's keys, with the evidence shown, or told by the user.

An entry of LLaMA-Factory's `dataset_info.json` is such a mapping and is read as one (its data/README.md is the source).
"""

from __future__ import annotations

from collections.abc import Mapping as Raw
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ltp.core.errors import ErrorCode, LtpError

PROMPT_KEYS = ("prompt", "question", "instruction")
RESPONSE_KEYS = ("response", "completion", "output")
EXPECTED = (
    "Expected one of: 'messages' (a list of role and content); 'conversations' (a list of from and value); "
    "'prompt', 'question' or 'instruction' with 'response', 'completion' or 'output'; "
    "'chosen' with 'rejected'; 'prompt' with 'completion' and a true or false 'label'; 'text'; "
    "verl's RL rows, 'prompt' with 'reward_model': {'ground_truth': ...}. Or say which column is which with a mapping."
)


class RowFormat(StrEnum):
    """The formats a row may come in."""

    FROZEN = "frozen"
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_RESPONSE = "prompt_response"
    PREFERENCE = "preference"
    KTO = "kto"
    VERL_RL = "verl_rl"
    TEXT = "text"


ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "system": "system", "function_call": "call", "observation": "tool",
    "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip


@dataclass(frozen=True)
class Mapping:
    """Our word -> the row's column, for one format. A column that is not named here is a field of the user's own."""

    format: RowFormat
    columns: Raw[str, str]
    # The names of a turn's role and content, and the words that are used for roles.
    role_key: str = "role"
    content_key: str = "content"
    roles: Raw[str, str] = field(default_factory=lambda: ROLES)
    evidence: str = ""

    def get(self, raw: Raw[str, Any], name: str) -> Any:
        """The value our word stands for in a row; None when the row has none."""
        column = self.columns.get(name)
        return None if column is None else raw.get(column)


# Columns that are read whatever the format, when they are there.
_COMMON = {"id": "id", "answer": "answer", "tools": "tools"}
_RL = {"reward_model": "reward_model"}
FROZEN_COLUMNS = (
    "row_id", "id", "messages", "prompt", "answer", "chosen", "rejected", "label", "text", "tools_json",
    "data_source", "reward_model", "extra_info", "fields",
)  # fmt: skip


def detect(raw: Raw[str, Any], line: int) -> Mapping:
    """The mapping of one row. A null counts as absent, since Parquet has a column for every row.

    Raises LtpError: DATASET_FORMAT_UNKNOWN, also where two readings are possible.
    """
    present = {key for key, value in raw.items() if value is not None}
    if "row_id" in present and "extra_info" in raw and "messages" in raw:
        columns = {name: name for name in FROZEN_COLUMNS}
        return Mapping(RowFormat.FROZEN, columns, evidence="columns of a frozen version: 'row_id', 'messages'")
    for found in (_preference(raw, present, line), _conversation(raw, present, line), _pair(raw, present, line)):
        if found is not None:
            return found
    if isinstance(raw.get("text"), str):
        return _mapping(RowFormat.TEXT, {"text": "text"}, raw, "key 'text' alone")
    found_keys = ", ".join(f"'{key}'" for key in sorted(raw)) or "no keys"
    raise LtpError(ErrorCode.DATASET_FORMAT_UNKNOWN, f"Row {line} has {found_keys}: no known format.", EXPECTED)


def _mapping(kind: RowFormat, columns: dict[str, str], raw: Raw[str, Any], evidence: str, **more: Any) -> Mapping:
    common = {name: column for name, column in _COMMON.items() if column in raw and column not in columns.values()}
    if kind in {RowFormat.VERL_RL, RowFormat.MESSAGES, RowFormat.PROMPT_RESPONSE}:
        common |= {name: column for name, column in _RL.items() if column in raw}
    return Mapping(kind, {**common, **columns}, evidence=evidence, **more)


def _preference(raw: Raw[str, Any], present: set[str], line: int) -> Mapping | None:
    if not {"chosen", "rejected"} <= present:
        return None
    talk = next((key for key in ("conversations", "messages") if key in present), None)
    key = talk or _only(PROMPT_KEYS, present, line)
    columns = {"chosen": "chosen", "rejected": "rejected"}
    if key is not None:
        columns["messages" if talk else "prompt"] = key
    if key == "instruction" and "input" in raw:
        columns["query"] = "input"
    columns |= {name: name for name in ("system", "history") if name in raw}
    said = f"keys '{key}', 'chosen' and 'rejected'" if key else "keys 'chosen' and 'rejected', the prompt within them"
    return _mapping(RowFormat.PREFERENCE, columns, raw, said, **_tags(raw.get(talk or "") or raw["chosen"]))


def _conversation(raw: Raw[str, Any], present: set[str], line: int) -> Mapping | None:
    key = _only(("messages", "conversations"), present, line)
    if key is None:
        return None
    tags = _tags(raw[key])
    kind = RowFormat.SHAREGPT if tags else RowFormat.MESSAGES
    said = f"key '{key}'" + (" with turns of 'from' and 'value'" if tags else "")
    if isinstance(raw.get("label"), bool):
        return _mapping(RowFormat.KTO, {"messages": key, "label": "label"}, raw, f"{said}, a boolean 'label'", **tags)
    columns = {"messages": key, **({"system": "system"} if kind is RowFormat.SHAREGPT and "system" in raw else {})}
    return _mapping(kind, columns, raw, said, **tags)


def _tags(turns: Any) -> dict[str, Any]:
    """ShareGPT's words, where the first turn (or the only one) uses them."""
    first = turns[0] if isinstance(turns, list) and turns else turns
    if isinstance(first, dict) and "from" in first and "value" in first:
        return {"role_key": "from", "content_key": "value", "roles": SHAREGPT_ROLES}
    return {}


def _pair(raw: Raw[str, Any], present: set[str], line: int) -> Mapping | None:
    prompt = _only(PROMPT_KEYS, present, line)
    response = _only(RESPONSE_KEYS, present, line) or next((key for key in RESPONSE_KEYS if key in raw), None)
    if prompt is None:
        return None
    columns = {"prompt": prompt, **{name: name for name in ("system", "history") if name in raw}}
    if prompt == "instruction" and "input" in raw:
        columns["query"] = "input"
    if response and isinstance(raw.get("label"), bool):
        said = f"keys '{prompt}' and '{response}' with a boolean 'label'"
        return _mapping(RowFormat.KTO, {**columns, "response": response, "label": "label"}, raw, said)
    if response:
        kind = RowFormat.ALPACA if (prompt, response) == ("instruction", "output") else RowFormat.PROMPT_RESPONSE
        return _mapping(kind, {**columns, "response": response}, raw, f"keys '{prompt}' and '{response}'")
    if "reward_model" in present:
        return _mapping(RowFormat.VERL_RL, columns, raw, f"keys '{prompt}' and 'reward_model'")
    if "answer" in raw:
        # Rows of question and answer alone, as GSM8K's: the answer is the response.
        columns |= {"response": "answer"}
        return _mapping(RowFormat.PROMPT_RESPONSE, columns, raw, f"keys '{prompt}' and 'answer'")
    return None


def _only(keys: tuple[str, ...], present: set[str], line: int) -> str | None:
    found = [key for key in keys if key in present]
    if len(found) > 1:
        names = " and ".join(f"'{key}'" for key in found)
        raise LtpError(
            ErrorCode.DATASET_FORMAT_UNKNOWN,
            f"Row {line} has {names}: which of them is meant is not clear.",
            "Keep one of them, or say which column is which with a mapping.",
        )
    return found[0] if found else None


# -- told by the user ------------------------------------------------------------------------------------------------

_FORMATS = {
    "alpaca": RowFormat.ALPACA, "sharegpt": RowFormat.SHAREGPT, "openai": RowFormat.MESSAGES,
    **{kind.value: kind for kind in RowFormat if kind is not RowFormat.FROZEN},
}  # fmt: skip
_ENTRY_KEYS = {
    "file_name", "hf_hub_url", "ms_hub_url", "formatting", "ranking", "subset", "split", "folder", "num_samples",
    "columns", "tags", "format", "script_url", "cloud_file_name", "om_hub_url", "load_from",
}  # fmt: skip
_COLUMN_KEYS = {
    "prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected", "kto_tag", "label",
    "id", "answer", "text", "reward_model", "images", "videos", "audios",
}  # fmt: skip
_TAG_KEYS = (
    "role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag",
)  # fmt: skip


def told(entry: Raw[str, Any]) -> Mapping:
    """The mapping a user wrote: `format` (or LLaMA-Factory's `formatting`), `columns`, `tags`, `ranking`.

    Raises LtpError: INVALID_REQUEST for a word that is not known, so that a slip of the pen is not passed over.
    """
    _known("key", set(entry), _ENTRY_KEYS)
    columns: dict[str, str] = dict(entry.get("columns") or {})
    _known("column", set(columns), _COLUMN_KEYS)
    tags: dict[str, str] = dict(entry.get("tags") or {})
    _known("tag", set(tags), set(_TAG_KEYS))
    if media := {"images", "videos", "audios"} & set(columns):
        raise _invalid(f"The mapping names {', '.join(sorted(media))}, and only text is read.", "Leave them out.")
    said = str(entry.get("format") or entry.get("formatting") or "alpaca")
    if said not in _FORMATS:
        raise _invalid(f"Unknown format {said!r}.", f"Known: {', '.join(sorted(_FORMATS))}.")
    kind = _FORMATS[said]
    if "kto_tag" in columns:
        columns["label"] = columns.pop("kto_tag")
        kind = RowFormat.KTO
    if entry.get("ranking"):
        kind = RowFormat.PREFERENCE
    sharegpt = said == "sharegpt"
    columns = {**_defaults(kind, sharegpt, columns), **columns}
    return Mapping(
        kind,
        {**_COMMON, **columns},
        role_key=tags.get("role_tag", "from" if sharegpt else "role"),
        content_key=tags.get("content_tag", "value" if sharegpt else "content"),
        roles=_roles(tags, sharegpt),
        evidence="told by a mapping",
    )


def _defaults(kind: RowFormat, sharegpt: bool, columns: Raw[str, str]) -> dict[str, str]:
    talk = {"messages": "conversations"} if sharegpt else {}
    alpaca = {"prompt": "instruction", "query": "input", "response": "output"}
    pair = {} if "messages" in columns or sharegpt else alpaca
    match kind:
        case RowFormat.ALPACA:
            return alpaca
        case RowFormat.SHAREGPT:
            return talk
        case RowFormat.MESSAGES:
            return {"messages": "messages"}
        case RowFormat.KTO:
            return {**talk, **pair, "label": "label"}
        case RowFormat.PREFERENCE:
            prompt = {k: v for k, v in pair.items() if k != "response"} if "prompt" not in columns else {}
            return {**talk, **prompt, "chosen": "chosen", "rejected": "rejected"}
        case RowFormat.TEXT:
            return {"text": "text"}
        case RowFormat.VERL_RL:
            return {"prompt": "prompt", **_RL}
        case _:
            return {"prompt": "prompt", "response": "response"}


def _roles(tags: Raw[str, str], sharegpt: bool) -> dict[str, str]:
    roles = dict(SHAREGPT_ROLES if sharegpt else ROLES)
    ours = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "call",
            "system_tag": "system"}  # fmt: skip
    return roles | {tags[tag]: role for tag, role in ours.items() if tag in tags}


def _known(what: str, found: set[str], known: set[str]) -> None:
    if strange := sorted(found - known):
        raise _invalid(f"The mapping has the unknown {what} {strange[0]!r}.", f"Known: {', '.join(sorted(known))}.")


def _invalid(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_REQUEST, message, hint)
