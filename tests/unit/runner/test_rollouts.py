"""Responses of a model under reinforcement learning: what is kept of a step, how a file stays bounded, and what is read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltp_verl import samples
from services.runner.rollouts import bounded, samples_of


def _line(step: int, text: str = "4", score: float = 1.0) -> dict[str, object]:
    return samples.line(step, "p_0_0", "2 + 2", text, 4, score)


def test_whole_groups_of_a_prompt_are_kept_first() -> None:
    keys = [f"{prompt}_{rollout}_0" for rollout in range(8) for prompt in ("b", "a", "c")]
    kept = [samples.group_of(keys[index]) for index in samples.chosen(keys)]
    assert kept == ["a"] * 8 + ["b"] * 8


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    samples.keep(file, [_line(1), _line(1, "<b>\u2028 5 \ud800", float("nan"))])
    samples.keep(file, [_line(2)])
    found = samples_of(file.read_bytes())
    assert [(one.step, one.score, one.reference, one.group) for one in found] == [
        (1, 1.0, "4", "p"),
        (1, None, "4", "p"),
        (2, 1.0, "4", "p"),
    ]
    # The end of a file is read from the middle of a line, and its last line may not be written to its end yet.
    assert [one.step for one in samples_of(file.read_bytes()[10:-5])] == [1]


def test_a_file_that_grew_too_large_loses_its_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_MOST_BYTES", 4000)
    file = tmp_path / "rollouts.jsonl"
    for step in range(200):
        samples.keep(file, [_line(step)])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.stat().st_size < 4200
    assert lines[-1]["step"] == 199
    assert [line["step"] for line in lines] == list(range(lines[0]["step"], 200))


def test_an_answer_is_no_larger_than_the_bus_takes() -> None:
    long = samples_of("\n".join(json.dumps(_line(1, "x" * 20_000)) for _ in range(100)).encode())
    kept = bounded(long)
    assert 1 <= len(kept) < 100
    assert sum(len(one.response) for one in kept) <= 250_000
    assert long[0].response.endswith("…")
