"""Reading a split: the same rows for every model, and clear errors for what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.rows import read_rows


def write(path: Path, answers: dict[str, str | None]) -> Path:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("id", pa.string()), ("prompt", pa.list_(turn)), ("answer", pa.string())])
    records: list[dict[str, Any]] = [
        {"id": key, "prompt": [{"role": "user", "content": f"question {key}"}], "answer": answer}
        for key, answer in answers.items()
    ]
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path)
    return path


def test_the_first_answered_rows_by_id(tmp_path: Path) -> None:
    path = write(tmp_path / "test.parquet", {"c": "3", "a": "1", "b": None, "d": "4"})
    rows = read_rows(path, 2)
    assert [(row.row_id, row.answer) for row in rows] == [("a", "1"), ("c", "3")]
    assert rows[0].prompt == ({"role": "user", "content": "question a"},)


def test_no_answers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LtpError) as caught:
        read_rows(write(tmp_path / "test.parquet", {"a": None}), 10)
    assert caught.value.code == ErrorCode.EVALUATION_EMPTY


def test_what_is_no_table_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "test.parquet"
    broken.write_text("not parquet")
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["a"]}), other)
    for path in (broken, other, tmp_path / "missing.parquet"):
        with pytest.raises(LtpError) as caught:
            read_rows(path, 10)
        assert caught.value.code == ErrorCode.DATASET_UNREADABLE
