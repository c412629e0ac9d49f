"""Every algorithm learns a toy task on processors, through the platform's own launch and launcher: `make test-training`.

The reward of reinforcement learning is the share of lower-case letters in eight bytes, about 0.1 by chance. A rise is believed
when its trend over the steps is beyond chance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import pytest

from ltp.tensors.fsdp_export import export
from ltp.verl_recipe.verl_0_9 import checkpoint_files
from tests.training.runs import Maker, Run

pytestmark = [pytest.mark.slow, pytest.mark.training]

LOWER = (
    "def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
    "    return sum(letter.islower() for letter in solution_str) / 8\n"
)
REWARD = {"kind": "function", "file": "lower.py", "source": LOWER}
GROUP: dict[str, Any] = {"samples_per_prompt": 8, "max_response_length": 8, "reward": REWARD}
STEPS = 12
RL = {"steps": STEPS, "learning_rate": 2e-3}
RL_LORA = {"steps": STEPS, "learning_rate": 1e-2, "lora_rank": 8}
CASES: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ppo": ("ppo", RL, {"reinforcement": GROUP, "critic": {"learning_rate": 1e-3}}),
    "ppo-lora": ("ppo", RL_LORA, {"reinforcement": GROUP, "critic": {"learning_rate": 1e-3}}),
    "grpo": ("grpo", RL, {"reinforcement": {**GROUP, "kl_loss_coefficient": 0.001}}),
    "grpo-lora": ("grpo", RL_LORA, {"reinforcement": GROUP}),
    "gspo": ("gspo", RL, {"reinforcement": GROUP}),
    "gspo-lora": ("gspo", RL_LORA, {"reinforcement": {**GROUP, "kl_loss_coefficient": 0.001}}),
    "dapo": ("dapo", RL, {"reinforcement": {**GROUP, "overlong_buffer": 4, "overlong_penalty": 0.1}}),
    "rloo": ("rloo", RL, {"reinforcement": GROUP}),
    "dr_grpo": ("dr_grpo", RL, {"reinforcement": GROUP}),
    "cispo": ("cispo", RL, {"reinforcement": GROUP}),
    "reinforce_plus_plus": ("reinforce_plus_plus", RL, {"reinforcement": {**GROUP, "kl_reward_coefficient": 0.001}}),
}


def rises(values: Sequence[float]) -> bool:
    """Whether the last third lies above the first two beyond chance; noise is what one value differs from the next.

    By the median of successive differences (after von Neumann, Ann. Math. Stat. 12, 1941), which a rise hardly touches:
    neither a curve that is flat once it has learnt nor one that jumps is taken for noise, as a trend test and a test on
    means alone do. Pure noise, uniform or normal, exceeds 4.2 once in 200 draws.
    """
    noise = 1.4826 * median(abs(b - a) for a, b in pairwise(values)) / sqrt(2)
    third = len(values) // 3
    return mean(values[-third:]) - mean(values[:2]) > 4.2 * noise * sqrt(1 / third + 1 / 2)


def test_the_measure_of_a_rise() -> None:
    assert rises([0.01, 0.424, 0.924, 0.967, 0.969, 0.965, 0.98, 0.99, 0.99, 0.98, 0.992, 0.994])
    # Flat once it has learnt: no trend to speak of.
    assert rises([0.016, 0.064, 0.855, 0.824, 0.887, 0.947, 0.939, 0.939, 0.945, 0.932, 0.93, 0.945])
    assert not rises([0.1, 0.12, 0.09, 0.11, 0.1, 0.13, 0.1, 0.12, 0.11, 0.1, 0.12, 0.11])
    chance = Random(1)
    found = sum(rises([chance.random() for _ in range(STEPS)]) for _ in range(2000))
    assert found < 20  # 0.5 %


def believable(run: Run, step: int) -> None:
    """The checkpoint is whole, and it exports as a model that transformers loads."""
    from transformers import AutoModelForCausalLM

    algorithm = str(run.recipe["algorithm"])
    assert all((run.directory / "checkpoints" / name).is_file() for name in checkpoint_files(step, 1, algorithm))
    actor = run.checkpoint(step) / "actor"
    out = run.directory / "model"
    export(actor if actor.is_dir() else run.checkpoint(step), out)
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() > 0
    assert (out / "adapter" / "adapter_model.safetensors").is_file() == bool(run.recipe["training"].get("lora_rank"))


@pytest.mark.parametrize("case", CASES)
def test_the_reward_rises(run: Maker, case: str, record_property: Any) -> None:
    algorithm, training, sections = CASES[case]
    done = run(algorithm, training=training, **sections).start().end()
    rewards = done.curve("critic/score/mean")
    record_property("rewards", json.dumps(rewards))
    print(case, {step: round(value, 3) for step, value in rewards.items()})
    assert list(rewards) == list(range(1, STEPS + 1))
    assert rises(list(rewards.values())), rewards
    assert done.curve("reward/errors")[STEPS] == 0
    believable(done, STEPS)


@pytest.mark.parametrize("rank", [0, 8])
def test_dpo_tells_the_chosen_from_the_rejected(run: Maker, rank: int) -> None:
    rate = 1e-2 if rank else 1e-3
    done = run("dpo", training={"steps": 8, "learning_rate": rate, "lora_rank": rank}).start().end()
    losses, margins = done.curve("train/loss"), done.curve("dpo/reward_margin")
    print("dpo", rank, losses, margins)
    # Before the first update the policy is its reference, so a pair costs ln 2.
    assert losses[1] == pytest.approx(0.693147, abs=1e-4)
    assert done.curve("dpo/accuracy")[8] == 1.0
    assert margins[8] > margins[2] > 0.01
    believable(done, 8)


@pytest.mark.parametrize("rank", [0, 8])
def test_sft_learns_its_rows(run: Maker, rank: int) -> None:
    rate = 1e-2 if rank else 1e-3
    done = run("sft", training={"steps": 12, "learning_rate": rate, "lora_rank": rank}).start().end()
    losses = done.curve("train/loss")
    print("sft", rank, losses)
    assert losses[12] < losses[1] - 0.5
    believable(done, 12)


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_a_paused_run_goes_on_as_if_never_stopped(run: Maker, algorithm: str) -> None:
    from tests.service.runner.conftest import wait_for

    # Four steps are one epoch, where verl alone would skip the next.
    training = {"steps": 40, "learning_rate": 5e-4}
    whole = run(algorithm, training=training).start().end()
    paused = run(algorithm, training=training).start()
    wait_for(lambda: len(paused.curve("train/loss")) > 2, seconds=300)
    paused.stop()
    paused.end()
    step = max(paused.curve("train/loss"))
    assert step < 40
    resumed = run(algorithm, training=training).start(resume_from=paused.checkpoint(step)).end()
    stitched = {**paused.curve("train/loss"), **resumed.curve("train/loss")}
    wanted = whole.curve("train/loss")
    worst = max(abs(stitched[at] - wanted[at]) for at in wanted)
    print(algorithm, "paused at", step, "worst difference", worst)
    assert stitched.keys() == wanted.keys()
    assert worst < 1e-3


def test_a_paused_grpo_goes_on(run: Maker) -> None:
    from tests.service.runner.conftest import wait_for

    paused = run("grpo", training={**RL, "steps": 6}, reinforcement=GROUP).start()
    wait_for(lambda: paused.curve("critic/score/mean"), seconds=600)
    paused.stop()
    paused.end()
    step = max(paused.curve("critic/score/mean"))
    assert step < 6
    resumed = run("grpo", training={**RL, "steps": 6}, reinforcement=GROUP)
    resumed.start(resume_from=paused.checkpoint(step)).end()
    assert list(resumed.curve("critic/score/mean")) == list(range(step + 1, 7))


def test_a_reward_that_raises_is_counted_and_one_that_never_works_ends_the_run(run: Maker) -> None:
    sometimes = LOWER.replace("    return", "    if int(extra_info['index']) % 2: raise KeyError('odd')\n    return")
    reward = {**REWARD, "source": sometimes}
    done = run("grpo", training={**RL, "steps": 2}, reinforcement={**GROUP, "reward": reward}).start().end()
    errors, share = done.curve("reward/errors"), done.curve("reward/error_share")
    assert 0 < errors[1] < errors[2]
    assert 0 < share[1] < 1
    assert "KeyError: 'odd'" in (done.directory / "reward_errors.jsonl").read_text()
    reward = {**REWARD, "source": LOWER.replace("    return", "    raise KeyError('always')\n    return")}
    broken = run("grpo", training={**RL, "steps": 2}, reinforcement={**GROUP, "reward": reward}).start()
    with pytest.raises(AssertionError, match="RewardFailedError"):
        broken.end()


def test_a_reward_model_scores_on_processors(run: Maker, material: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = tmp_path / "judge"
    AutoTokenizer.from_pretrained(material / "model").save_pretrained(place)
    AutoModelForSequenceClassification.from_pretrained(material / "model", num_labels=1).save_pretrained(place)
    reward = {"kind": "model", "model": str(place)}
    done = run("rloo", training={**RL, "steps": 2}, reinforcement={**GROUP, "reward": reward}).start().end()
    assert done.curve("reward/errors") == {1: 0.0, 2: 0.0}
    assert len(set(done.curve("critic/score/mean").values())) == 2
