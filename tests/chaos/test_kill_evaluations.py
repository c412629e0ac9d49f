"""Evaluator, model server and gateway are killed while a model is evaluated: each sample is scored once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_kill_services import is_ready_again
from tests.e2e.platform import Platform, eventually

pytestmark = [pytest.mark.slow, pytest.mark.training]


@pytest.mark.parametrize("seed", [1, 2])
def test_each_sample_is_scored_once_whoever_dies(platform: Platform, model: Path, seed: int) -> None:
    dice = random.Random(seed)
    asked = ["eval", "run", "-d", "sums", "--model", str(model), "--scorer", "numeric", "--temperature", "1.0"]
    # Answers at random and no seed: one that were asked again would differ.
    asked += ["--max-new-tokens", "200", "--samples", "40"]
    (begun,) = platform.json(*asked)
    identity = begun["evaluation_id"]
    eventually(lambda: platform.json("eval", "get", identity)["state"] == "running", 240)
    for victim in dice.sample(["evaluator", "gateway", "server"], 3):
        goal = len(answers(platform, identity)) + dice.randrange(1, 60)
        eventually(lambda goal=goal: len(answers(platform, identity)) >= goal or over(platform, identity), 240)
        assert not over(platform, identity), "it was over before the last kill"
        before = answers(platform, identity)
        kill(platform, victim)
        after = eventually(lambda: answers(platform, identity), 60)
        assert before.items() <= after.items(), "a stored answer was made again"
    done = platform.json("eval", "wait", identity)
    assert done["state"] == "completed", platform.logs()
    last = answers(platform, identity)
    assert before.items() <= last.items() and len(last) == done["total"]


def kill(platform: Platform, victim: str) -> None:
    if victim == "server":
        evaluator = platform.pid_of("evaluator")
        for pid in Path(f"/proc/{evaluator}/task/{evaluator}/children").read_text().split():
            if "services.evaluator.serve" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(int(pid), signal.SIGKILL)
        return
    old = platform.pid_of(victim)
    os.kill(old, signal.SIGKILL)
    eventually(lambda: is_ready_again(platform, victim, old), 60)


def over(platform: Platform, identity: str) -> bool:
    return platform.json("eval", "get", identity)["state"] in {"completed", "failed", "cancelled"}


def answers(platform: Platform, identity: str) -> dict[tuple[str, int], Any]:
    """Every stored answer by row and number."""
    found: dict[tuple[str, int], Any] = {}
    while True:
        page = platform.json("eval", "samples", identity, "--limit", "200", "--offset", str(len(found)))
        found |= {(s["row_id"], s["sample"]): s["response"] for s in page["samples"]}
        if not page["samples"] or len(found) >= page["total"]:
            return found
