"""A mask process that starts too slowly to be ready ahead does not spoil the first question."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.dataset import masks

SLOW = """#!/bin/sh
if [ ! -e {mark} ]; then touch {mark}; sleep 1; fi
echo '{{"ready": true}}'
while read line; do echo '{{"rows": [{{"trained": 1}}]}}'; done
"""


@pytest.mark.asyncio
async def test_a_late_start_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(SLOW.format(mark=tmp_path / "mark"))
    interpreter.chmod(0o755)
    process = masks.MaskProcess(str(interpreter))
    monkeypatch.setattr(masks, "_START_SECONDS", 0.3)
    process.warm()
    warming = process._warming
    assert warming is not None
    await warming
    monkeypatch.setattr(masks, "_START_SECONDS", 60.0)
    try:
        assert await asyncio.wait_for(process.ask({}, 30), 60) == [{"trained": 1}]
    finally:
        await process.stop()
