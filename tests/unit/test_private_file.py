"""Private files: theirs alone whatever the umask, and whole whatever happens while one is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ltp.security.private_file import write_private


def test_it_is_its_owners_alone_and_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = tmp_path / "token", os.umask(0o777)
    try:
        write_private(path, "one")
        assert path.stat().st_mode & 0o777 == 0o600
        write_private(path, "two", 0o644)
        assert path.stat().st_mode & 0o777 == 0o644 and path.read_text() == "two"
    finally:
        os.umask(old)

    def full(_: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        write_private(path, "three")
    assert path.read_text() == "two" and [each.name for each in tmp_path.iterdir()] == ["token"]
