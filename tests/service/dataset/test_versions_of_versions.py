"""Versions made of versions, and files made of versions: rows are neither lost, doubled nor changed on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source, derive_files, mix_files, split_files
from services.dataset.diff import diff
from services.dataset.export import write
from services.dataset.files import FrozenVersion
from services.dataset.ingest import SourceFile, freeze
from services.dataset.where import rows_where

FACTS = {"format": "x", "evidence": "y"}


def added(folder: Path, name: str, rows: list[dict[str, Any]], holdout: float = 0.2) -> Source:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source(
        folder,
        name,
        freeze([SourceFile(file, file.name)], name=name, holdout=holdout, versions_dir=folder / name, owner="o"),
    )


def source(folder: Path, name: str, frozen: FrozenVersion) -> Source:
    return Source(name, frozen.version, folder / name / frozen.version)


def ids(found: Source) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for split, table in found.tables():
        splits.setdefault(split, set()).update(table.column("id").to_pylist())
    return splits


def sums(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "prompt": f"{n}+1?", "response": str(n + 1), "level": n % 3, "tenant": "ab"[n % 2]}
        for n in range(first, first + count)
    ]


def test_rows_kept_by_name_and_by_field_stay_in_their_splits(tmp_path: Path) -> None:
    parent = added(tmp_path, "p", sums(100))
    args: dict[str, Any] = {"name": "p", "versions_dir": tmp_path / "p", "owner": "d", "facts": FACTS}
    by_field = source(
        tmp_path, "p", derive_files(parent, rows_where(parent, {"tenant": ["a"], "level": ["0", "1"]}), **args)
    )
    wanted = {f"r{n}" for n in range(100) if n % 2 == 0 and n % 3 < 2}
    assert set.union(*ids(by_field).values()) == wanted
    assert all(rows <= ids(parent)[split] for split, rows in ids(by_field).items())
    row_ids = [row for _, t in by_field.tables(["row_id"]) for row in t.column("row_id").to_pylist()]
    assert derive_files(parent, row_ids, **args).version == by_field.version
    assert derive_files(parent, lambda table: np.ones(len(table), bool), **args).version == parent.version
    with pytest.raises(LtpError, match="No row is left"):
        derive_files(parent, [], **args)
    with pytest.raises(LtpError, match="no field 'teant'"):
        rows_where(parent, {"teant": ["a"]})


def test_splitting_and_mixing(tmp_path: Path) -> None:
    one, two = added(tmp_path, "one", sums(100)), added(tmp_path, "two", sums(300, 1000))
    args: dict[str, Any] = {"versions_dir": tmp_path / "new", "name": "new", "owner": "d", "facts": FACTS}
    parts = ids(source(tmp_path, "new", split_files(two, {"train": 0.5, "val": 0.25, "test": 0.25}, **args)))
    assert {name: len(rows) > 40 for name, rows in parts.items()} == {"train": True, "val": True, "test": True}
    assert sum(map(len, parts.values())) == 300
    mixed = source(tmp_path, "new", mix_files([one, two], [1, 1], None, **args))
    found = set.union(*ids(mixed).values())
    assert len(found) == pytest.approx(200, abs=2) and len([r for r in found if len(r) < 4]) == pytest.approx(
        100, abs=1
    )
    assert all(rows <= ids(one).get(split, set()) | ids(two).get(split, set()) for split, rows in ids(mixed).items())
    with pytest.raises(LtpError, match=r"1000 rows need 500 of one, which has 100") as caught:
        mix_files([one, two], [1, 1], 1000, **args)
    assert caught.value.code is ErrorCode.DATASET_TOO_SMALL


def test_a_diff_tells_added_removed_changed_and_moved(tmp_path: Path) -> None:
    before, rows = added(tmp_path, "d", sums(50), holdout=0), sums(50)[1:]
    rows[0] = {**rows[0], "response": "other"}
    after = added(tmp_path, "d", [*rows, *sums(2, 900)], holdout=0)
    found = diff(before, after, 5)
    assert [found[kind] for kind in ("added", "removed", "changed", "moved", "same")] == [2, 1, 1, 0, 48]
    assert len(found["examples"]["changed"]) == 1
    assert diff(before, added(tmp_path, "d", sums(50), holdout=0.5), 0)["moved"] > 10


TALK = [
    {"id": f"t{n}", "tenant": "ab"[n % 2], "messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": "more"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(20)]  # fmt: skip
PAIRS = [{"prompt": f"{n}+1?", "response": str(n + 1), "tenant": "ab"[n % 2]} for n in range(20)]
RL = [{"prompt": [{"role": "user", "content": f"{n}"}], "data_source": "gsm8k", "ability": "math",
       "reward_model": {"style": "rule", "ground_truth": str(n)}, "extra_info": {"index": n}} for n in range(9)]  # fmt: skip
PREFERENCE = [{"prompt": f"{n}", "chosen": "good", "rejected": "bad"} for n in range(9)]
KTO = [{"prompt": f"{n}", "completion": "c", "label": n % 2 == 0} for n in range(9)]
TOOLS = [{"messages": [{"role": "user", "content": f"{n}"},
                       {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                       {"role": "tool", "content": "4"}, {"role": "assistant", "content": "4"}],
          "tools": [{"type": "function", "function": {"name": "f"}}]} for n in range(5)]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("rows", "to"),
    [
        (TALK, "messages"), (TALK, "sharegpt"), (TALK, "alpaca"), (TALK, "verl_sft"), (PAIRS, "messages"),
        (PAIRS, "sharegpt"), (PAIRS, "alpaca"), (PAIRS, "prompt_response"), (RL, "verl_rl"),
        (PREFERENCE, "preference"), (PREFERENCE, "verl_dpo"), (KTO, "kto"), (TOOLS, "messages"), (TOOLS, "sharegpt"),
        ([{"text": f"t{n}", "score": n} for n in range(9)], "text"),
    ],
)  # fmt: skip
def test_what_was_written_reads_back_as_the_same_rows(
    tmp_path: Path, rows: list[dict[str, Any]], to: str, kind: str
) -> None:
    # `answer` has no place in some formats of conversations alone; there the response is all there is.
    rows = [{**row, "answer": "a"} for row in rows] if rows is TALK else rows
    first = added(tmp_path, "first", rows, holdout=0)
    file = tmp_path / f"out.{kind}"
    assert write((table for _, table in first.tables()), to, kind, file, "first") == len(rows)
    again = freeze([SourceFile(file, file.name)], name="first", holdout=0, versions_dir=tmp_path / "again", owner="o")
    assert again.version == first.version


def test_a_row_that_a_format_cannot_hold_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    first = added(tmp_path, "first", PAIRS, holdout=0)
    for to, said in (
        ("preference", "'chosen'"),
        ("kto", "label"),
        ("text", "no plain text"),
        ("nonsense", "no format"),
    ):
        with pytest.raises(LtpError, match=said):
            write((table for _, table in first.tables()), to, "jsonl", tmp_path / "out" / "x.jsonl", "first")
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_verl_files_have_verls_columns(tmp_path: Path) -> None:
    first = added(tmp_path, "first", RL, holdout=0)
    write((table for _, table in first.tables()), "verl_rl", "parquet", tmp_path / "rl.parquet", "first")
    row = pq.read_table(tmp_path / "rl.parquet").to_pylist()[0]
    assert row["data_source"] == "gsm8k" and row["ability"] == "math"
    assert row["reward_model"] == {"style": "rule", "ground_truth": row["prompt"][0]["content"]}
    assert row["extra_info"] == {"index": int(row["prompt"][0]["content"])}
