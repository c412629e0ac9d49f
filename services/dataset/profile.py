"""What a split is made of: lengths, turns, languages, and the user's own fields with their cross-tables, in one pass."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.dataset.language import language_of
from services.dataset.schema import flat
from services.dataset.sketch import Numbers, Values

# A field with more values than this is no label, and gets no cross-table.
MAX_LABELS = 64
MAX_CROSSED = 8
# Rows come in the order of their hashes, so the first ones are a fair sample.
SAMPLE_ROWS = 2_000
EXTREMES = 5
_REPRESENTED = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Profile:
    """Grows with every table of frozen rows; `summary` is plain JSON."""

    rows: int = 0
    lengths: dict[str, Numbers] = field(default_factory=dict[str, Numbers])
    roles: Values = field(default_factory=Values)
    columns: dict[str, int] = field(default_factory=dict[str, int])
    numbers: dict[str, Numbers] = field(default_factory=dict[str, Numbers])
    values: dict[str, Values] = field(default_factory=dict[str, Values])
    crossed: dict[tuple[str, str], Counter[tuple[Any, Any]]] = field(
        default_factory=dict[tuple[str, str], Counter[tuple[Any, Any]]]
    )
    languages: Counter[str] = field(default_factory=Counter[str])
    sample: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    shortest: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    longest: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def update(self, table: pa.Table) -> None:
        """Take in rows of the frozen schema."""
        sizes = self._measure(table)
        self._languages(table)
        self._remember(table, sizes)
        self.rows += table.num_rows
        for name in ("answer", "chosen", "rejected", "label", "text", "tools_json"):
            self.columns[name] = self.columns.get(name, 0) + table.num_rows - table.column(name).null_count
        if "fields" in table.column_names:
            self._fields(flat(table.column("fields")))

    def summary(self) -> dict[str, Any]:
        """The whole profile."""
        labels = [name for name, values in self.values.items() if 0 < len(values.counts) <= MAX_LABELS]
        sampled = sum(self.languages.values())
        return {
            "rows": self.rows,
            "filled": {name: count for name, count in self.columns.items() if count},
            "lengths": {name: numbers.summary() for name, numbers in self.lengths.items()},
            "roles": self.roles.summary(),
            "language": {
                "sampled_rows": sampled,
                "ratios": {name: count / sampled for name, count in self.languages.most_common()},
            },
            "fields": {name: self._field(name) for name in sorted({*self.numbers, *self.values})},
            "labels": labels,
            "crosstabs": [
                _crosstab(pair, counts)
                for pair, counts in sorted(self.crossed.items())
                # A pair that was not watched from the first row to the last would tell half of it.
                if {*pair} <= {*labels} and sum(counts.values()) == self.rows
            ],
            "outliers": {
                "shortest": _rows(sorted(self.shortest)),
                "longest": _rows(sorted(self.longest, reverse=True)),
            },
            "representatives": self._representatives(),
        }

    def _measure(self, table: pa.Table) -> np.ndarray:
        """Lengths in characters. Returns those of whole rows."""
        messages, texts = flat(table.column("messages")), flat(table.column("text"))
        offsets = messages.offsets.to_numpy()
        characters = pc.fill_null(pc.utf8_length(messages.values.field("content")), 0).to_numpy()
        sums = np.concatenate([[0], np.cumsum(characters, dtype=np.int64)])
        rows = sums[offsets[1:]] - sums[offsets[:-1]]
        turns = np.diff(offsets)
        talks = turns > 0
        last = characters[offsets[1:][talks] - 1]
        self._numbers("turns", turns[talks])
        self._numbers("prompt_characters", rows[talks] - last)
        self._numbers("response_characters", last)
        if texts.null_count < len(texts):
            rows = rows + pc.fill_null(pc.utf8_length(texts), 0).to_numpy()
        self._numbers("characters", rows)
        self.roles.update(_counts(messages.values.field("role")))
        for name in ("chosen", "rejected"):
            array = flat(table.column(name))
            if array.null_count < len(array):
                ends = array.offsets.to_numpy()
                sizes = pc.fill_null(pc.utf8_length(array.values.field("content")), 0).to_numpy()
                total = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
                self._numbers(f"{name}_characters", (total[ends[1:]] - total[ends[:-1]])[np.diff(ends) > 0])
        return rows

    def _numbers(self, name: str, values: np.ndarray) -> None:
        self.lengths.setdefault(name, Numbers()).update(values)

    def _languages(self, table: pa.Table) -> None:
        wanted = SAMPLE_ROWS - sum(self.languages.values())
        if wanted > 0:
            head = table.slice(0, wanted)
            for turns, text in zip(head.column("messages").to_pylist(), head.column("text").to_pylist(), strict=True):
                said = text or " ".join(turn["content"] or "" for turn in turns or () if turn["role"] != "system")
                self.languages[language_of(said)] += 1

    def _remember(self, table: pa.Table, sizes: np.ndarray) -> None:
        ids = table.column("row_id")
        if len(self.sample) < SAMPLE_ROWS:
            head = SAMPLE_ROWS - len(self.sample)
            self.sample += list(zip(sizes[:head].tolist(), ids.slice(0, head).to_pylist(), strict=True))
        order = np.argsort(sizes, kind="stable")
        low, high = order[:EXTREMES], order[-EXTREMES:]
        self.shortest = heapq.nsmallest(EXTREMES, [*self.shortest, *((int(sizes[i]), ids[i].as_py()) for i in low)])
        self.longest = heapq.nlargest(EXTREMES, [*self.longest, *((int(sizes[i]), ids[i].as_py()) for i in high)])

    def _fields(self, fields: pa.StructArray) -> None:
        columns = dict(zip((f.name for f in fields.type), fields.flatten(), strict=True))
        for name, column in columns.items():
            filled = column.drop_null()
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                values = filled.to_numpy(zero_copy_only=False)
                self.numbers.setdefault(name, Numbers()).update(values, column.null_count)
            elif pa.types.is_string(column.type):
                lengths = pc.utf8_length(filled).to_numpy()
                self.lengths.setdefault(f"fields.{name}", Numbers()).update(lengths, column.null_count)
            known = self.values.setdefault(name, Values())
            if known.is_full:
                known.nulls += column.null_count
                known.total += len(filled)
            else:
                known.update(_counts(filled), column.null_count)
        self._cross(columns)

    def _cross(self, columns: dict[str, pa.Array]) -> None:
        """Joint counts of every two labels, as long as both have few values."""
        labels = [name for name in sorted(columns) if 0 < len(self.values[name].counts) <= MAX_LABELS][:MAX_CROSSED]
        for pair in itertools.combinations(labels, 2):
            table = pa.table([columns[pair[0]], columns[pair[1]]], names=["a", "b"])
            found = table.group_by(["a", "b"]).aggregate([([], "count_all")]).to_pydict()
            keys = zip(found["a"], found["b"], strict=True)
            self.crossed.setdefault(pair, Counter()).update(dict(zip(keys, found["count_all"], strict=True)))

    def _field(self, name: str) -> dict[str, Any]:
        found = self.values[name].summary()
        if name in self.numbers:
            found["numbers"] = self.numbers[name].summary()
        if f"fields.{name}" in self.lengths:
            found["characters"] = self.lengths[f"fields.{name}"].summary()
        return found

    def _representatives(self) -> list[dict[str, Any]]:
        """Rows of the sample whose length is nearest to a quantile."""
        if not self.sample:
            return []
        sizes = self.lengths["characters"]
        found: list[dict[str, Any]] = []
        for q in _REPRESENTED:
            wanted = sizes.quantile(q)
            length, row_id = min(self.sample, key=lambda item: (abs(item[0] - wanted), item[1]))
            found.append({"quantile": q, "row_id": row_id, "characters": length})
        return found


def _counts(array: pa.Array) -> dict[Any, int]:
    found = pc.value_counts(array)
    keys = found.field("values").to_pylist()
    # NaN is not equal to itself and would count as many values.
    named = ["NaN" if isinstance(key, float) and key != key else key for key in keys]  # noqa: PLR0124 - NaN alone differs from itself
    return dict(zip(named, found.field("counts").to_pylist(), strict=True))


def _crosstab(pair: tuple[str, str], counts: Counter[tuple[Any, Any]]) -> dict[str, Any]:
    cells = [{"values": list(key), "count": count} for key, count in sorted(counts.items(), key=lambda c: str(c[0]))]
    return {"fields": list(pair), "cells": cells}


def _rows(found: list[tuple[float, str]]) -> list[dict[str, Any]]:
    return [{"row_id": row_id, "characters": size} for size, row_id in found]
