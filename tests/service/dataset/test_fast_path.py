"""The short way through a block gives exactly the rows of the long way, or leaves the block to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset import ingest
from services.dataset.fast import columns_of, raw_schema
from services.dataset.ingest import SourceFile, freeze
from services.dataset.mapping import detect
from services.dataset.rows import normalise, table_of
from services.dataset.schema import row_keys
from services.dataset.source import Lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FIELDS = {
    "tenant": TEXT | st.none(),
    "score": st.floats(-9, 9) | st.none(),
    "level": st.integers(0, 9),
    "ok": st.booleans(),
}


def talk(role: str, content: str, names: dict[str, str]) -> st.SearchStrategy[Any]:
    def turns(parts: list[str]) -> list[dict[str, str]]:
        return [{role: names["assistant" if n % 2 else "user"], content: text} for n, text in enumerate(parts)]

    return st.lists(TEXT, min_size=0, max_size=5).map(turns)


OPENAI = talk("role", "content", {"user": "user", "assistant": "assistant"})
SHAREGPT = talk("from", "value", {"user": "human", "assistant": "gpt"})
FORMS = st.one_of(
    st.lists(st.fixed_dictionaries({"messages": OPENAI, **FIELDS}), min_size=1, max_size=6),
    st.lists(st.fixed_dictionaries({"conversations": SHAREGPT, **FIELDS}), min_size=1, max_size=6),
    st.lists(
        st.fixed_dictionaries({"instruction": TEXT, "input": TEXT | st.none(), "output": TEXT, **FIELDS}),
        min_size=1,
        max_size=6,
    ),
    st.lists(
        st.fixed_dictionaries({"prompt": TEXT, "response": TEXT, "answer": TEXT | st.none()}), min_size=1, max_size=6
    ),
)


@settings(max_examples=300, deadline=None)
@given(FORMS)
def test_both_ways_give_the_same_rows(raws: list[dict[str, Any]]) -> None:
    data = "\n".join(json.dumps(raw) for raw in raws).encode()
    try:
        columns = detect(raws[0], 1)
    except Exception:
        return
    schema = raw_schema(raws)
    fast = None if schema is None else columns_of(Lines(data, 1, 0), schema, columns)
    if fast is None:
        return
    slow = table_of([normalise(raw, detect(raw, n), n) for n, raw in enumerate(raws, 1)])
    assert (
        fast.drop_columns("fields" if "fields" in fast.column_names else []).to_pylist()
        == slow.select([name for name in slow.column_names if name != "fields"]).to_pylist()
    )
    assert row_keys(fast)[0].tolist() == row_keys(slow)[0].tolist()


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_the_short_way_is_taken_for_ordinary_rows(key: str) -> None:
    names = ("role", "content", "user", "assistant") if key == "messages" else ("from", "value", "human", "gpt")
    raws = [
        {"id": f"r{n}", key: [{names[0]: names[2], names[1]: "q"}, {names[0]: names[3], names[1]: f"a{n}"}], "t": n}
        for n in range(10)
    ]
    data = "".join(json.dumps(raw) + "\n" for raw in raws).encode()
    schema = raw_schema(raws)
    assert schema is not None
    assert columns_of(Lines(data, 1, 0), schema, detect(raws[0], 1)) is not None


def test_an_error_deep_in_a_large_file_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that the broken line lies in a block that went the short way up to it.
    monkeypatch.setattr("services.dataset.source.BLOCK_BYTES", 4096)
    rows = [json.dumps({"prompt": f"question {n}", "response": f"answer {n}"}) for n in range(2000)]
    rows[1500] = '{"prompt": "x" "y"}'
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(rows))
    with pytest.raises(ingest.LtpError, match=r"line 1501, column 16"):
        freeze([SourceFile(source, "a.jsonl")], name="x", holdout=0, versions_dir=tmp_path / "v", owner="o")
    assert not list((tmp_path / "v").iterdir())


def test_many_blocks_are_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": f"q{n}", "response": f"a{n % 700}", "n": n}) + "\n" for n in range(3000)) * 2
    )
    versions = []
    for size, ranges in ((4096, 1 << 14), (1 << 24, 1 << 30)):
        monkeypatch.setattr("services.dataset.source.BLOCK_BYTES", size)
        monkeypatch.setattr("services.dataset.spool.RANGE_BYTES", ranges)
        frozen = freeze(
            [SourceFile(source, "a.jsonl")], name="x", holdout=0.1, versions_dir=tmp_path / str(size), owner="o"
        )
        versions.append(frozen.version)
        assert (frozen.rows, frozen.duplicates) == (3000, 3000)
    assert versions[0] == versions[1]
