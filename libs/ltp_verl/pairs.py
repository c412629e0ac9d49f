"""Rows with a chosen and a rejected answer as verl's SFT dataset sees a conversation, two for each row."""

from __future__ import annotations

from typing import Any

import pandas as pd
from verl.utils.py_functional import convert_nested_value_to_list_recursive as plain
from verl.utils.tokenizer.chat_template import extract_system_prompt_and_generation

from ltp_verl.sft_dataset import ToolSFTDataset, parsed_tools


class PairDataset(ToolSFTDataset):
    """Item i is the pair (chosen, rejected) of row i, each as the SFT dataset would give it.

    Reads a frozen version (`messages` that end in the chosen answer) and the exported format `verl_dpo` (`prompt`). Only
    the answers are trained on; an assistant's turns in the prompt are not.
    """

    def _read_files_and_process(self) -> None:
        frame = pd.concat([pd.read_parquet(file, dtype_backend="pyarrow") for file in self.parquet_files])
        if self.max_samples > 0:
            frame = frame.iloc[: self.max_samples]
        _demand_pairs(frame)
        talks: list[list[dict[str, Any]]] = []
        self._prompt_turns: list[int] = []
        for row in frame.to_dict("records"):
            chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
            prompt = _turns(row["messages"])[: -len(chosen)] if "messages" in row else _turns(row["prompt"])
            talks += [prompt + chosen, prompt + rejected]
            self._prompt_turns += [len(prompt)] * 2
        self.messages, self.tools, self.enable_thinking = talks, None, None
        if "tools_json" in frame.columns:
            self.tools = [parsed_tools(text) for text in frame["tools_json"].tolist() for _ in ("chosen", "rejected")]
        self.dataframe = pd.DataFrame({self.messages_key: pd.Series(talks, dtype=object)})
        self.system_prompt, self.generation_prompt = extract_system_prompt_and_generation(
            self.tokenizer, **self.apply_chat_template_kwargs
        )

    def __len__(self) -> int:
        return len(self.messages) // 2

    def __getitem__(self, item: int) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [self._sequence(2 * item), self._sequence(2 * item + 1)]

    def _sequence(self, index: int) -> dict[str, Any]:
        self._current = index
        return super().__getitem__(index)

    def _process_single_message(self, index: int, *args: Any, **kwargs: Any) -> Any:
        said: Any = super()._process_single_message(index, *args, **kwargs)
        ids, loss_mask, attention_mask, more = said
        if index < self._prompt_turns[self._current]:
            loss_mask = loss_mask * 0
        return ids, loss_mask, attention_mask, more


def _demand_pairs(frame: pd.DataFrame) -> None:
    """Raise ValueError for rows that are no pairs: the gate at the door looks at a sample, training needs all."""
    columns = [name for name in ("chosen", "rejected") if name not in frame.columns]
    if columns:
        raise ValueError(f"DPO needs the column(s) {', '.join(columns)}, which this file has not")
    missing = sum(frame["chosen"].isna() | frame["rejected"].isna())
    if missing:
        raise ValueError(
            f"{missing} of {len(frame)} rows lack a chosen or a rejected answer, and DPO learns from pairs"
        )


def _turns(value: Any) -> list[dict[str, Any]]:
    """Messages with the keys a chat template asks for; a plain text is an answer."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return [{key: part for key, part in turn.items() if part is not None} for turn in plain(value)]
