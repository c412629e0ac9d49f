"""Files as users really send them: broken, mislabelled, cut off. Each ends in a version or in a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.files import FrozenVersion
from services.dataset.ingest import SourceFile, freeze
from services.dataset.schema import frozen_schema

ROWS = [{"id": str(n), "prompt": f"{n}+1?", "response": str(n + 1)} for n in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def frozen(path: Path, holdout: float = 0.2) -> FrozenVersion:
    return read(path, path.parent / "versions", holdout)


def read(path: Path, versions: Path, holdout: float = 0.2) -> FrozenVersion:
    return freeze([SourceFile(path, path.name)], name="sums", holdout=holdout, versions_dir=versions, owner="test")


def refused(path: Path) -> LtpError:
    with pytest.raises(LtpError) as caught:
        frozen(path)
    versions = path.parent / "versions"
    assert not versions.exists() or not list(versions.iterdir()), "a refusal leaves nothing behind"
    return caught.value


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_the_same_rows_give_the_same_version_whatever_the_file(tmp_path: Path) -> None:
    sources = [
        written(tmp_path / "a.jsonl", LINES),
        written(tmp_path / "b.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()),
        written(tmp_path / "array.jsonl", json.dumps(ROWS, indent=1)),
        written(tmp_path / "reversed.txt", "\n\n".join(reversed(LINES.splitlines()))),
        parquet(tmp_path / "named.jsonl", ROWS),
    ]
    versions = {frozen(source).version for source in sources}
    assert len(versions) == 1
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [*versions]


def test_a_version_holds_its_splits_and_manifest(tmp_path: Path) -> None:
    version = frozen(written(tmp_path / "a.jsonl", LINES))
    manifest = json.loads((version.splits["train"].path.parent / "manifest.json").read_text())
    assert version.rows == 20 and version.format == "prompt_response" == manifest["format"]
    assert {name: split.rows for name, split in version.splits.items()} == {
        name: facts["rows"] for name, facts in manifest["splits"].items()
    }
    assert sum(split.answered for split in version.splits.values()) == 20
    table = pq.read_table(version.splits["train"].path)
    assert table.schema.equals(frozen_schema())
    first = table.to_pylist()[0]
    assert first["extra_info"] == {"id": first["id"], "index": 0} and first["data_source"] == "sums"
    assert first["reward_model"] == {"style": "rule", "ground_truth": first["answer"]}


def test_a_frozen_file_freezes_to_itself(tmp_path: Path) -> None:
    first = frozen(written(tmp_path / "a.jsonl", LINES), holdout=0)
    again = read(first.splits["train"].path, tmp_path / "again", holdout=0)
    assert again.version == first.version


def test_an_existing_version_is_kept(tmp_path: Path) -> None:
    path = frozen(written(tmp_path / "a.jsonl", LINES)).splits["train"].path
    before = path.stat()
    frozen(tmp_path / "a.jsonl")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.unlink()
    with pytest.raises(LtpError, match=r"lacks train\.parquet") as caught:
        frozen(tmp_path / "a.jsonl")
    assert caught.value.code is ErrorCode.DATA_DIR_CORRUPT


def test_no_holdout_no_test_file(tmp_path: Path) -> None:
    assert set(frozen(written(tmp_path / "a.jsonl", LINES), holdout=0).splits) == {"train"}


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", ErrorCode.DATASET_EMPTY, "0 bytes"),
        (b"\n \n", ErrorCode.DATASET_EMPTY, "no rows"),
        (b"[]", ErrorCode.DATASET_EMPTY, "no rows"),
        (b"\xef\xbb\xbf", ErrorCode.DATASET_EMPTY, "no rows"),
        (LINES.encode() + b'{"prompt": "a" "b"}', ErrorCode.DATASET_UNREADABLE, "line 21, column 16"),
        (b'[{"prompt": "a",\n "response" "b"}]', ErrorCode.DATASET_UNREADABLE, "line 2, column 13"),
        (LINES.encode()[:-5], ErrorCode.DATASET_UNREADABLE, "line 20"),
        (LINES.encode() + b'{"prompt": "\xff"}', ErrorCode.DATASET_UNREADABLE, f"byte {len(LINES) + 12} (line 21)"),
        (b'[{"prompt": "caf\xe9"}]', ErrorCode.DATASET_UNREADABLE, "byte 16 is 0xe9"),
        ("[{}]".encode("utf-16"), ErrorCode.DATASET_UNREADABLE, "not UTF-8: byte 0"),
        (b"\x1f\x8b\x08\x00", ErrorCode.DATASET_UNREADABLE, "not UTF-8"),
        (b'{"prompt": "a", "prompt": "b", "response": "c"}', ErrorCode.DATASET_UNREADABLE, "'prompt' stands twice"),
        (
            LINES.encode() + b'{"id": "7", "prompt": "a", "response": "b"}',
            ErrorCode.DATASET_ROW_INVALID,
            "Row 21 repeats the id of row 8",
        ),
        (
            LINES.encode() + b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            ErrorCode.DATASET_ROW_INVALID,
            "20 of format prompt_response, first row 1 (keys 'prompt' and 'response'); 1 of format messages, first row 21",
        ),
        (LINES.encode() + b'{"prompt": "a", "response": ""}', ErrorCode.DATASET_ROW_WITHOUT_ANSWER, "Row 21"),
        (b'[{"prompt": "a", "response": "b"},]', ErrorCode.DATASET_UNREADABLE, "line 1, column 35"),
        (b'[{"prompt": "a", "response": "b"}] x', ErrorCode.DATASET_UNREADABLE, "Extra data"),
        (b'[{"prompt": "a", "response": "b"}', ErrorCode.DATASET_UNREADABLE, "line 1"),
        (b'{"prompt": NaN}', ErrorCode.DATASET_UNREADABLE, "NaN is not JSON"),
        (b"[" * 100_000, ErrorCode.DATASET_UNREADABLE, "nested too deeply"),
        (b'{"a":' * 100_000, ErrorCode.DATASET_UNREADABLE, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", ErrorCode.DATASET_UNREADABLE, "line 1"),
        (b'"text"\n', ErrorCode.DATASET_ROW_INVALID, 'Row 1 is "text"'),
        (b"[1]", ErrorCode.DATASET_ROW_INVALID, "Row 1 is 1"),
        (b"id,prompt,response\n1,a,b\n", ErrorCode.DATASET_UNREADABLE, "line 1, column 1"),
        (b"PAR1 this is no Parquet PAR1", ErrorCode.DATASET_UNREADABLE, "no readable Parquet"),
        (b"PAR1", ErrorCode.DATASET_UNREADABLE, "no readable Parquet"),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes, code: ErrorCode, said: str) -> None:
    error = refused(written(tmp_path / "data.jsonl", content))
    assert (error.code, said in error.message) == (code, True), error.message


def test_a_cut_off_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ROWS)
    assert refused(written(path, path.read_bytes()[:-20])).code is ErrorCode.DATASET_UNREADABLE


def test_parquet_rows_are_numbered_and_must_be_answered(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "a"}]
    rl = [{"prompt": prompt, "reward_model": {"ground_truth": truth}} for truth in ("1", None)]
    error = refused(parquet(tmp_path / "rl.parquet", rl))
    assert error.code is ErrorCode.DATASET_ROW_WITHOUT_ANSWER and "Row 2" in error.message
    assert refused(parquet(tmp_path / "none.parquet", [])).code is ErrorCode.DATASET_EMPTY


def test_a_file_that_is_not_there_or_is_a_directory(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.jsonl").code is ErrorCode.DATASET_UNREADABLE
    (tmp_path / "folder.jsonl").mkdir()
    assert refused(tmp_path / "folder.jsonl").code is ErrorCode.DATASET_UNREADABLE


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    # RLIMIT_FSIZE stands in for a full disk: the kernel refuses the write in the same place, with EFBIG for ENOSPC.
    import resource
    import signal

    source = written(tmp_path / "a.jsonl", LINES)
    versions = tmp_path / "versions"
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(LtpError) as caught:
            read(source, versions)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert list(versions.iterdir()) == []


def test_an_unwritable_place(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", LINES)
    with pytest.raises(LtpError) as caught:
        read(source, source / "versions", holdout=0)
    assert caught.value.code is ErrorCode.DATA_DIR_UNWRITABLE
