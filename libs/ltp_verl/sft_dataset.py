"""verl's SFT dataset over our frozen files: definitions and calls of tools reach the chat template as templates expect them.

A file keeps tools as JSON text (`tools_json`), because schemas differ from row to row and a Parquet column has one
type. Calls keep their arguments as JSON text, as OpenAI sends them, while templates write objects. A field
`enable_thinking` of a row is what verl's own column of that name would be.
"""

from __future__ import annotations

import json
from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset


class ToolSFTDataset(MultiTurnSFTDataset):
    """As its parent, with tools, calls and thinking read from the columns of a frozen version."""

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        columns = self.dataframe.columns
        if "tools_json" in columns:
            self.tools = [parsed_tools(text) for text in self.dataframe["tools_json"].tolist()]
        if "fields" in columns:
            said = [_thinking(fields) for fields in self.dataframe["fields"].tolist()]
            if any(value is not None for value in said):
                default = self.enable_thinking_default
                self.enable_thinking = [default if value is None else value for value in said]

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        return [_turn(message) for message in super()._build_messages(example)]


def parsed_tools(text: Any) -> list[dict[str, Any]] | None:
    """The tools of a row; missing values come as None or as pandas' own NA."""
    return json.loads(text) if isinstance(text, str) and text else None


def _thinking(fields: Any) -> bool | None:
    value = fields.get("enable_thinking") if isinstance(fields, dict) else None
    return value if isinstance(value, bool) else None


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    """A turn without the keys that are null: templates ask whether a key is there."""
    turn = {key: value for key, value in message.items() if value is not None or key == "content"}
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call) for call in calls]
    return turn


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    try:
        function["arguments"] = json.loads(function["arguments"])
    except (TypeError, ValueError):
        pass  # A call whose arguments are no JSON is written as it stands.
    return {**{key: value for key, value in call.items() if value is not None}, "function": function}
