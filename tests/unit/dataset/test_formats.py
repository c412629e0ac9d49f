"""Every known format becomes the one normal form, with its evidence shown, and every refusal names its row."""

from __future__ import annotations

from typing import Any

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.mapping import RowFormat, detect, told
from services.dataset.rows import normalise

USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
CALL = {"id": None, "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
TALK = ("user:2+2?", "assistant:4")


def read(raw: dict[str, Any], mapping: dict[str, Any] | None = None) -> tuple[RowFormat, dict[str, Any]]:
    columns = detect(raw, 42) if mapping is None else told(mapping)
    return columns.format, normalise(raw, columns, 42)


def spelt(turns: list[dict[str, Any]] | None) -> tuple[str, ...]:
    return tuple(f"{turn['role']}:{turn['content']}" for turn in turns or ())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"messages": [USER, REPLY]}, (RowFormat.MESSAGES, TALK, None)),
        ({"messages": [USER, REPLY], "answer": 4}, (RowFormat.MESSAGES, TALK, "4")),
        ({"messages": [USER, REPLY], "reward_model": {"ground_truth": "4"}}, (RowFormat.MESSAGES, TALK, "4")),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
         (RowFormat.SHAREGPT, TALK, None)),
        ({"conversations": [USER, REPLY]}, (RowFormat.MESSAGES, TALK, None)),
        ({"prompt": "2+2?", "response": "4"}, (RowFormat.PROMPT_RESPONSE, TALK, "4")),
        ({"prompt": [USER], "completion": [REPLY]}, (RowFormat.PROMPT_RESPONSE, TALK, "4")),
        ({"question": "2+2?", "answer": "4"}, (RowFormat.PROMPT_RESPONSE, TALK, "4")),
        ({"prompt": "2+2?", "response": "It is 4", "answer": "4"},
         (RowFormat.PROMPT_RESPONSE, ("user:2+2?", "assistant:It is 4"), "4")),
        ({"instruction": "Add", "input": "2 2", "output": "4", "system": "Be brief"},
         (RowFormat.ALPACA, ("system:Be brief", "user:Add\n\n2 2", "assistant:4"), "4")),
        ({"instruction": "And 3?", "input": "", "output": "6", "history": [["2+2?", "4"]]},
         (RowFormat.ALPACA, (*TALK, "user:And 3?", "assistant:6"), "6")),
        ({"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "4"}, "data_source": "sums"},
         (RowFormat.VERL_RL, TALK, "4")),
        ({"messages": None, "prompt": "2+2?", "response": "4"}, (RowFormat.PROMPT_RESPONSE, TALK, "4")),
    ],
)  # fmt: skip
def test_conversations(raw: dict[str, Any], expected: object) -> None:
    found, row = read(raw)
    assert (found, spelt(row["messages"]), row["answer"]) == expected


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [REPLY], "rejected": [{"role": "assistant", "content": "5"}]},
        {"chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "5"}]},
        {"prompt": [USER], "chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "5"}]},
        {"conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": "4"},
         "rejected": {"from": "gpt", "value": "5"}},
    ],
)  # fmt: skip
def test_preferences_however_they_are_written(raw: dict[str, Any]) -> None:
    found, row = read(raw)
    assert found is RowFormat.PREFERENCE
    assert (spelt(row["chosen"]), spelt(row["rejected"])) == (("assistant:4",), ("assistant:5",))
    assert spelt(row["messages"]) == TALK


def test_kto_text_and_fields_of_the_users_own() -> None:
    found, row = read({"prompt": "2+2?", "completion": "5", "label": False, "tenant": "a", "tags": ["x"]})
    assert found is RowFormat.KTO and row["label"] is False
    assert row["fields"] == {"tenant": "a", "tags": '["x"]'}
    found, row = read({"text": "Once upon a time", "score": 0.5})
    assert found is RowFormat.TEXT and row["messages"] is None and row["fields"] == {"score": 0.5}


def test_tools_in_both_spellings() -> None:
    openai = {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                     {"role": "tool", "content": "4"}, REPLY],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }  # fmt: skip
    sharegpt = {
        "conversations": [{"from": "human", "value": "2+2?"},
                          {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                          {"from": "observation", "value": "4"}, {"from": "gpt", "value": "4"}],
        "tools": '[{"type": "function", "function": {"name": "add"}}]',
    }  # fmt: skip
    one, other = read(openai)[1], read(sharegpt)[1]
    assert one["messages"] == other["messages"] and one["tools_json"] == other["tools_json"]
    assert one["messages"][1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("mapping", "raw"),
    [
        ({"columns": {"prompt": "q", "response": "a"}}, {"q": "2+2?", "a": "4"}),
        ({"formatting": "sharegpt", "columns": {"messages": "talk"},
          "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "bot"}},
         {"talk": [{"who": "me", "said": "2+2?"}, {"who": "bot", "said": "4"}]}),
        ({"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
         {"q": "2+2?", "good": "4", "bad": "5"}),
        # The keys would say prompt and response; the mapping says otherwise.
        ({"columns": {"prompt": "question", "response": "answer"}}, {"prompt": "x", "response": "y", "question": "2+2?", "answer": "4"}),
    ],
)  # fmt: skip
def test_a_mapping_as_llama_factory_writes_it(mapping: dict[str, Any], raw: dict[str, Any]) -> None:
    assert spelt(read(raw, mapping)[1]["messages"]) == TALK


@pytest.mark.parametrize("mapping", [{"colums": {}}, {"columns": {"promt": "q"}}, {"formatting": "none"}])
def test_a_misspelt_mapping_is_refused(mapping: dict[str, Any]) -> None:
    with pytest.raises(LtpError) as caught:
        told(mapping)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_the_evidence_is_shown() -> None:
    assert detect({"instruction": "a", "output": "b"}, 1).evidence == "keys 'instruction' and 'output'"
    assert "'from' and 'value'" in detect({"conversations": [{"from": "human", "value": "a"}]}, 1).evidence


WITHOUT, INVALID, UNKNOWN = (
    ErrorCode.DATASET_ROW_WITHOUT_ANSWER, ErrorCode.DATASET_ROW_INVALID, ErrorCode.DATASET_FORMAT_UNKNOWN,
)  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        ({"messages": [USER]}, WITHOUT, "no message is the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, WITHOUT, "null"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, WITHOUT, "empty"),
        ({"prompt": "a", "response": None}, WITHOUT, "null"),
        ({"prompt": "a", "response": "\n"}, WITHOUT, "empty"),
        ({"question": "a", "answer": None}, WITHOUT, "null"),
        ({"prompt": [USER], "reward_model": {}}, WITHOUT, "null"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, WITHOUT, "'rejected' is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, INVALID, "'chosen' and 'rejected' are equal"),
        ({"chosen": "b", "rejected": "c"}, INVALID, "no prompt"),
        ({"messages": []}, INVALID, "'messages' is empty"),
        ({"messages": "hi"}, INVALID, "not a list"),
        ({"messages": ["hi"]}, INVALID, "message 1 is a string"),
        ({"messages": [{"role": "human", "content": "a"}, REPLY]}, INVALID, "unknown role 'human'"),
        ({"messages": [{"role": "user", "content": 4}, REPLY]}, INVALID, "not a string"),
        ({"messages": [USER, USER, REPLY]}, INVALID, "1 and 2 are two user turns in a row"),
        ({"messages": [USER, REPLY, REPLY]}, INVALID, "two assistant turns"),
        ({"messages": [REPLY]}, INVALID, "user's turn was due"),
        ({"messages": [USER, REPLY, USER]}, INVALID, "not the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [1]}]}, INVALID, "calls a tool"),
        ({"messages": [USER, {"role": "tool", "content": "4"}, REPLY]}, INVALID, "the tool's"),
        ({"prompt": "\ud800", "response": "b"}, INVALID, "surrogate"),
        ({"prompt": "a", "response": "b", "id": True}, INVALID, "'id' is a boolean"),
        ({"prompt": "a", "response": "b", "x": float("nan")}, INVALID, "'x' is nan"),
        ({"prompt": "a", "response": "b", "answer": float("inf")}, INVALID, "'answer' is inf"),
        ({"prompt": "a", "question": "b", "response": "c"}, UNKNOWN, "and 'question'"),
        ({"messages": [USER], "conversations": [USER]}, UNKNOWN, "which of them is meant"),
        ({"body": "a", "label": 1}, UNKNOWN, "has 'body', 'label'"),
        ({}, UNKNOWN, "has no keys"),
    ],
)  # fmt: skip
def test_refusals_name_the_row(raw: dict[str, Any], code: ErrorCode, said: str) -> None:
    with pytest.raises(LtpError) as caught:
        read(raw)
    assert caught.value.code is code
    assert "ow 42" in caught.value.message and said in caught.value.message
