"""Patterns of subjects as one consumer of NATS may have them, and numbers that no listener could hold."""

from __future__ import annotations

import json

import pytest

from ltp.bus.permissions import apart
from ltp.contracts.numbers import refuse_huge
from ltp.core.errors import LtpError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["ltp.>", "ltp.job.v1.*"], ["ltp.>"]),
        (["ltp.job.v1.done", "ltp.job.v1.*", "ltp.job.v1.*"], ["ltp.job.v1.*"]),
        (["ltp.job.>", "ltp.job.v1.>", "ltp.jobs.>"], ["ltp.job.>", "ltp.jobs.>"]),
        (["ltp.job.v1.done", "ltp.job.v1"], ["ltp.job.v1.done", "ltp.job.v1"]),
        (["ltp.job.>", "ltp.job"], ["ltp.job.>", "ltp.job"]),
        (["*.>", "ltp.>"], ["*.>"]),
    ],
)
def test_what_another_pattern_holds_is_left_out(given: list[str], kept: list[str]) -> None:
    assert apart(given) == kept


@pytest.mark.parametrize("given", [["ltp.job.*.done", "ltp.*.v1.done"], ["ltp.*.v1.>", "ltp.job.>"], ["*.a", "a.*"]])
def test_patterns_that_overlap_in_part_are_refused(given: list[str]) -> None:
    with pytest.raises(ValueError, match="overlap"):
        apart(given)


def test_numbers_beyond_64_bits_are_refused_and_texts_are_not() -> None:
    for fits in ({"a": 2**63 - 1}, {"a": -(2**63) + 1}, {"a": f"x,{10**30},"}, {"a": 1e300, "b": "9" * 5000}):
        text = json.dumps(fits)
        assert refuse_huge(text) == text
    for large in ({"a": 2**63}, [-(2**64)], {"a": {"b": [1, int("9" * 4000)]}}):
        with pytest.raises(LtpError, match="too large"):
            refuse_huge(json.dumps(large))
