"""An interpreter that lacks what training needs says what it is, when a recipe is submitted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.runner.checks import _ask  # pyright: ignore[reportPrivateUsage]


async def test_what_an_interpreter_lacks_is_said(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(LtpError, match="No module named 'ltp_verl'") as refused:
        await _ask(str(bare), {"algorithm": "sft"})
    assert refused.value.code is ErrorCode.DEPENDENCY_MISSING
