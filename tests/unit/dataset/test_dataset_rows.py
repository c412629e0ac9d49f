"""Every known format becomes the one normal form, and every refusal names its row."""

from __future__ import annotations

from typing import Any

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.policy import collect
from services.dataset.rows import Message, RowFormat, detect, normalise

USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def row_of(raw: dict[str, Any]) -> tuple[RowFormat, tuple[str, ...], str | None]:
    found = detect(raw, 1).format
    row = normalise(raw, found, 1)
    assert row.prompt == row.messages[:-1]
    return found, tuple(f"{m.role}:{m.content}" for m in row.messages), row.answer


CONVERSATION = ("user:2+2?", "assistant:4")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"messages": [USER, REPLY]}, (RowFormat.MESSAGES, CONVERSATION, None)),
        ({"messages": [USER, REPLY], "answer": 4}, (RowFormat.MESSAGES, CONVERSATION, "4")),
        ({"messages": [USER, REPLY], "reward_model": {"ground_truth": "4"}}, (RowFormat.MESSAGES, CONVERSATION, "4")),
        ({"prompt": "2+2?", "response": "4"}, (RowFormat.PROMPT_RESPONSE, CONVERSATION, "4")),
        ({"question": "2+2?", "completion": "4"}, (RowFormat.PROMPT_RESPONSE, CONVERSATION, "4")),
        ({"question": "2+2?", "answer": "4"}, (RowFormat.PROMPT_RESPONSE, CONVERSATION, "4")),
        ({"prompt": "2+2?", "response": "It is 4", "answer": "4"},
         (RowFormat.PROMPT_RESPONSE, ("user:2+2?", "assistant:It is 4"), "4")),
        ({"prompt": [USER], "output": "4"}, (RowFormat.PROMPT_RESPONSE, CONVERSATION, "4")),
        ({"instruction": "Add", "input": "2 2", "output": "4", "system": "Be brief"},
         (RowFormat.PROMPT_RESPONSE, ("system:Be brief", "user:Add\n\n2 2", "assistant:4"), "4")),
        ({"instruction": "Add", "input": "", "output": "4"},
         (RowFormat.PROMPT_RESPONSE, ("user:Add", "assistant:4"), "4")),
        ({"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "4"}, "data_source": "sums"},
         (RowFormat.VERL_RL, CONVERSATION, "4")),
        ({"messages": None, "prompt": "2+2?", "response": "4"}, (RowFormat.PROMPT_RESPONSE, CONVERSATION, "4")),
    ],
)  # fmt: skip
def test_normal_form(raw: dict[str, Any], expected: object) -> None:
    assert row_of(raw) == expected


def test_id_is_given_or_made_from_the_content() -> None:
    raw = {"messages": [USER, REPLY]}
    made = normalise(raw, RowFormat.MESSAGES, 1).id
    assert made == normalise(dict(raw), RowFormat.MESSAGES, 99).id and len(made) == 32
    assert made != normalise(raw | {"answer": "4"}, RowFormat.MESSAGES, 1).id
    assert normalise(raw | {"id": 7}, RowFormat.MESSAGES, 1).id == "7"


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        ({"messages": [USER]}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "no message is the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "null"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "empty"),
        ({"prompt": "a", "response": None}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "null"),
        ({"prompt": "a", "response": "\n"}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "empty"),
        ({"question": "a", "answer": None}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "null"),
        ({"prompt": [USER], "reward_model": {}}, ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "null"),
        ({"messages": []}, ErrorCode.DATASET_ROW_INVALID, "'messages' is empty"),
        ({"messages": "hi"}, ErrorCode.DATASET_ROW_INVALID, "not a list"),
        ({"messages": ["hi"]}, ErrorCode.DATASET_ROW_INVALID, "message 1 is a string"),
        ({"messages": [{"role": "human", "content": "a"}, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "role 'human'"),
        ({"messages": [{"role": [], "content": "a"}, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "unknown role []"),
        ({"messages": [{"role": "user", "content": 4}, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "not a string"),
        ({"messages": [{"role": "user", "content": ""}, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "is empty"),
        ({"messages": [USER, USER, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "1 and 2 are two user turns in a row"),
        ({"messages": [USER, REPLY, REPLY]}, ErrorCode.DATASET_ROW_INVALID, "two assistant turns"),
        ({"messages": [REPLY]}, ErrorCode.DATASET_ROW_INVALID, "the user's turn was due"),
        ({"messages": [USER, REPLY, USER]}, ErrorCode.DATASET_ROW_INVALID, "not the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [1]}]},
         ErrorCode.DATASET_ROW_INVALID, "calls tools"),
        ({"prompt": "\ud800", "response": "b"}, ErrorCode.DATASET_ROW_INVALID, "surrogate"),
        ({"prompt": "a", "response": ["b"]}, ErrorCode.DATASET_ROW_INVALID, "not a string"),
        ({"prompt": "a", "response": "b", "id": True}, ErrorCode.DATASET_ROW_INVALID, "'id' is a boolean"),
        ({"instruction": "a", "output": "b", "history": [["x", "y"]]}, ErrorCode.DATASET_ROW_INVALID, "'history'"),
        ({"prompt": "a", "question": "b", "response": "c"}, ErrorCode.DATASET_FORMAT_UNKNOWN, "and 'question'"),
        ({"text": "a", "label": 1}, ErrorCode.DATASET_FORMAT_UNKNOWN, "has 'label', 'text'"),
        ({}, ErrorCode.DATASET_FORMAT_UNKNOWN, "has no keys"),
    ],
)  # fmt: skip
def test_refusals_name_the_row(raw: dict[str, Any], code: ErrorCode, said: str) -> None:
    with pytest.raises(LtpError) as caught:
        collect([(41, {"messages": [USER, REPLY]}), (42, raw)] if "messages" in raw else [(42, raw)])
    assert caught.value.code is code
    assert "ow 42" in caught.value.message and said in caught.value.message


def test_messages_are_values() -> None:
    assert normalise({"messages": [USER, REPLY]}, RowFormat.MESSAGES, 1).messages[0] == Message("user", "2+2?")
