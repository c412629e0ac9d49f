"""Foreign code is judged, cannot harm, and cannot take the evaluator along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.sandbox.pool import Sandbox

TESTS = "assert add(1, 2) == 3"
GOOD = "def add(a, b):\n    return a + b"


def code(hidden: Path, seconds: float = 3.0) -> Sandbox:
    settings = {"name": "code", "timeout_seconds": seconds, "memory_bytes": 512 << 20}
    return Sandbox(settings, [hidden], size=1)


@pytest.mark.parametrize(
    ("answer", "right", "why"),
    [
        (GOOD, True, ""),
        (f"Here it is:\n```python\n{GOOD}\n```\nDone.", True, ""),
        ("def add(a, b):\n    return a - b", False, "AssertionError"),
        ("this is no code", False, "SyntaxError"),
        ("import sys\nsys.exit(0)", False, "SystemExit"),
        ("import os\nos._exit(0)", False, "ended early"),
        ("x = 'a' * 10**11", False, "out of memory"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80), 1)", False, "Error"),
        (f"import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\n{GOOD}", True, ""),
    ],
)
async def test_only_code_that_passes_its_tests_is_right(tmp_path: Path, answer: str, right: bool, why: str) -> None:
    async with code(tmp_path) as sandbox:
        found = await sandbox.judge(answer, TESTS, {})
    assert found["value"] == float(right), found
    assert why in found["detail"].get("why", "")


async def test_code_that_never_ends_is_ended_and_the_next_is_judged(tmp_path: Path) -> None:
    async with code(tmp_path, 0.5) as sandbox:
        assert (await sandbox.judge("while True: pass", TESTS, {}))["late"]
        assert (await sandbox.judge(GOOD, TESTS, {}))["value"] == 1.0


async def test_code_sees_neither_the_data_directory_nor_a_disk_to_write_on(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sk-1")
    target = tmp_path.parent / "written"
    async with code(tmp_path) as sandbox:
        if not sandbox.caged:
            pytest.skip("this kernel allows no namespaces")
        looked = await sandbox.judge(f"import os\nassert os.listdir({str(tmp_path)!r}) == []\n{GOOD}", TESTS, {})
        wrote = await sandbox.judge(f"open({str(target)!r}, 'w').write('x')", TESTS, {})
        local = await sandbox.judge(f"open('scratch', 'w').write('x')\n{GOOD}", TESTS, {})
    assert looked["value"] == local["value"] == 1.0
    assert "Read-only" in wrote["detail"]["why"] and not target.exists()


async def test_a_pattern_that_explodes_costs_only_its_time(tmp_path: Path) -> None:
    settings = {"name": "regex", "pattern": "(a+)+$", "ignore_case": False, "timeout_seconds": 0.5}
    async with Sandbox(settings, [tmp_path], size=1) as sandbox:
        assert (await sandbox.judge("a" * 40 + "b", "x", {}))["late"]
        assert (await sandbox.judge("baa", "aa", {}))["value"] == 1.0
        assert (await sandbox.judge("nothing here?", "aa", {}))["outcome"] == "unparsable"


async def test_a_users_function_judges_by_its_own_rule(tmp_path: Path) -> None:
    def settings(source: str) -> dict[str, Any]:
        return {"name": "function", "file": "mine", "source": source, "timeout_seconds": 3.0}

    half = "def score(response, reference, row):\n    return len(response) / len(reference)"
    async with Sandbox(settings(half), [tmp_path], size=1) as sandbox:
        assert (await sandbox.judge("ab", "abcd", {"id": "1"}))["value"] == 0.5
    async with Sandbox(settings("def score(a, b, c):\n    return 1 / 0"), [tmp_path], size=1) as sandbox:
        failed = await sandbox.judge("ab", "abcd", {})
        assert failed["outcome"] == "unparsable" and "ZeroDivisionError" in failed["detail"]["why"]
    with pytest.raises(LtpError, match="defines no function score") as caught:
        async with Sandbox(settings("x = 1"), [tmp_path], size=1):
            pass
    assert caught.value.code == ErrorCode.SCORER_FAILED


async def test_mathematics_is_equal_as_mathematics(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    async with Sandbox({"name": "math", "timeout_seconds": 20.0}, [tmp_path], size=1) as sandbox:
        assert (await sandbox.judge("so it is $\\frac{1}{2}$", "0.5", {}))["value"] == 1.0
        assert (await sandbox.judge("\\boxed{(x+1)^2}", "$x^2+2x+1$", {}))["value"] == 1.0
        assert (await sandbox.judge("4", "3", {}))["value"] == 0.0
        assert (await sandbox.judge("no idea", "3", {}))["outcome"] == "unparsable"
