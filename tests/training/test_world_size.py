"""A run goes on with another number of ranks as if it had always had them: verl's own shards are bound to the world that wrote them."""

from __future__ import annotations

import pytest

from tests.service.runner.conftest import wait_for
from tests.training.runs import Maker

pytestmark = [pytest.mark.slow, pytest.mark.training]

TRAINING = {"steps": 14, "learning_rate": 5e-4, "save_every": 6}


@pytest.mark.parametrize(("before", "after", "rank"), [(1, 2, 0), (2, 1, 0), (1, 2, 8)])
def test_sft_resumes_on_another_number_of_ranks(run: Maker, before: int, after: int, rank: int) -> None:
    training = {**TRAINING, "lora_rank": rank}
    whole = run("sft", training=training, plan={"devices": before, "micro_batch_size": 4}).start().end()
    # In the middle of an epoch of four steps, so that the rest of it must be taken up.
    resumed = run("sft", training=training, plan={"devices": after, "micro_batch_size": 4})
    resumed.start(resume_from=whole.checkpoint(6)).end()
    assert f"spreading a checkpoint of {before} ranks over {after}" in resumed.log()
    wanted, found = whole.curve("train/loss"), resumed.curve("train/loss")
    assert list(found) == list(range(7, 15))
    worst = max(abs(found[step] - wanted[step]) for step in found)
    print(f"sft {before} -> {after} ranks, adapters {rank}: worst difference {worst:.2e}")
    assert worst < 1e-3
    assert resumed.curve("perf/throughput")[14] > 0


def test_nothing_of_a_cancelled_run_lives_on(run: Maker) -> None:
    going = run("sft", training={"steps": 100_000, "learning_rate": 1e-4}, plan={"devices": 2}).start()
    wait_for(lambda: going.curve("train/loss"), seconds=600)
    members = going.processes()
    assert len(members) >= 3  # torchrun and two ranks
    (going.directory / "kill").touch()
    wait_for(going.over, seconds=60)
    assert not going.processes()
    assert all(not going.lives(pid) for pid in members)
