"""The search: objectives, fronts, limits, free memory, remedies and re-planning, on hosts that are only described."""

from __future__ import annotations

from typing import Any

import pytest

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.plan import ReplanRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Device, Plan
from ltp.core.calibration import Interval
from ltp.core.device_constants import CONSTANTS
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.hardware import TABLE, lookup, recognise
from ltp.core.memory import GIB
from ltp.planning.choice import choose, explore, report
from ltp.planning.pools import HostFacts, described_host
from ltp.planning.ranking import pareto, ranked
from ltp.planning.replan import replan
from ltp.planning.search import cost_dollars, misses
from ltp.verl_recipe.verl_0_9 import planned_overrides
from tests.plan_grid import architecture
from tests.unit.planning.recipes import recipe

QWEN_7B, QWEN_SMALL = architecture("qwen2.5-7b"), architecture("qwen2.5-0.5b")
SET = DatasetVersion(name="d", version="0" * 64, rows=1000, splits={})


def hosts(*names: str, flash_attention: bool = False) -> list[HostFacts]:
    return [described_host(name, flash_attention=flash_attention) for name in names]


def test_the_smallest_device_that_is_enough() -> None:
    plan = choose(recipe(), QWEN_SMALL, hosts("h200", "l40s", "b200"))
    assert plan.device_model == "L40S"
    assert (
        choose(recipe(resources={"objective": "throughput"}), QWEN_SMALL, hosts("h200", "l40s", "b200")).device_model
        == "B200"
    )


def test_objectives_are_what_they_say() -> None:
    def best(objective: str) -> Plan:
        asked = recipe(resources={"objective": objective, "devices": 1, "max_devices": 8}, max_length=1024)
        return choose(asked, QWEN_7B, hosts("h100:8", "a100-80gb:8"))

    fast, cheap, few, roomy = (best(name) for name in ("throughput", "cost", "fewest-gpus", "headroom"))
    assert fast.step_seconds and cheap.step_seconds and fast.cost_dollars and cheap.cost_dollars
    assert fast.device_model == "H100-SXM" and fast.devices == 8
    assert fast.step_seconds < cheap.step_seconds * 1.001 and cheap.cost_dollars <= fast.cost_dollars
    assert few.devices < fast.devices
    assert roomy.memory_upper_bytes / roomy.device_memory_bytes < fast.memory_upper_bytes / fast.device_memory_bytes


def test_no_plan_of_the_front_is_beaten() -> None:
    asked = recipe("grpo", {"devices": 1, "max_devices": 8}, max_length=1024)
    order = ranked(asked, explore(asked, QWEN_7B, hosts("h100:8", "l40s:8")).fitting)
    front = pareto(asked, order)
    scores = [(c.seconds or 0, cost_dollars(asked, c) or 0, c.pool.devices, -c.headroom) for c in front]
    for one in scores:
        for other in scores:
            worse = all(a >= b for a, b in zip(one, other, strict=True))
            clearly = any(a > b * 1.06 if b > 0 else a > b + 0.1 for a, b in zip(one, other, strict=True))
            assert not (worse and clearly and one[2] > other[2])
    fastest = min(order, key=lambda c: c.seconds or 0).seconds
    assert fastest and (front[0].seconds or 0) < fastest * 1.03


def test_budget_and_deadline_reject_by_how_much() -> None:
    free = choose(recipe(), QWEN_SMALL, hosts("l40s"))
    assert free.eta_seconds and free.cost_dollars
    for limit in ({"deadline_seconds": free.eta_seconds / 2}, {"budget_dollars": free.cost_dollars / 2}):
        asked = recipe(resources={**limit, "device_kind": "gpu"})
        with pytest.raises(LtpError) as caught:
            choose(asked, QWEN_SMALL, hosts("l40s"))
        assert caught.value.code is ErrorCode.PLAN_DOES_NOT_FIT
        assert "more than the" in caught.value.message


def test_memory_that_others_hold_is_not_planned_on() -> None:
    def host(free: int | None) -> HostFacts:
        gpu = Device(index=0, kind="gpu", model="NVIDIA H200", memory_bytes=140 * GIB)
        return HostFacts("here", [gpu], 512 * GIB, 16, {} if free is None else {("gpu", 0): free})

    alone = choose(recipe(resources={"device_kind": "gpu"}), QWEN_SMALL, [host(None)])
    crowded = choose(recipe(resources={"device_kind": "gpu"}), QWEN_SMALL, [host(20 * GIB)])
    assert crowded.memory_upper_bytes < 20 * GIB < alone.memory_upper_bytes
    with pytest.raises(LtpError, match="of which other programs hold some"):
        choose(recipe(resources={"device_kind": "gpu"}), QWEN_SMALL, [host(2 * GIB)])


def test_without_a_gpu_that_fits_auto_takes_the_processors() -> None:
    plan = choose(recipe(max_length=512), architecture("qwen2.5-1.5b"), hosts("t4", "cpu:256"))
    assert plan.device_kind == "cpu"


def test_devices_without_bfloat16_are_refused_by_name() -> None:
    asked = recipe(resources={"device_kind": "gpu"})
    assert any(
        "V100-32GB computes no bfloat16" in miss.reason for miss in misses(explore(asked, QWEN_SMALL, hosts("v100")))
    )


def test_heads_that_do_not_divide_are_named() -> None:
    asked = recipe("grpo", {"devices": 8}, max_length=1024)
    found = report(asked, QWEN_7B, hosts("h100:8"))  # 28 heads
    reasons = [rejected.reason for rejected in found.rejected]
    assert any("rule 11" in reason and "28 attention heads do not divide by 8" in reason for reason in reasons)
    assert found.candidates > len(found.plans) and found.plans[0].rollout_tensor_parallel in (1, 2, 4)


def test_one_gpu_keeps_the_weights_of_lora_gathered_where_there_is_room() -> None:
    adapted = recipe(batch_size=32, max_length=1024, lora_rank=16)
    roomy, narrow = (choose(adapted, QWEN_7B, hosts(name)) for name in ("h200:1", "rtx-5090:1"))
    assert (roomy.reshards, narrow.reshards) == (False, True)
    # All weights in bf16 are part of the prediction.
    assert roomy.memory_components["gathered_layers"] > 1.9 * roomy.parameters
    assert "engine.reshard_after_forward=false" in planned_overrides(adapted, roomy)
    assert not [text for text in planned_overrides(adapted, narrow) if "reshard" in text]
    pair = recipe(resources={"devices": 2}, batch_size=32, max_length=1024, lora_rank=16)
    assert choose(recipe(), QWEN_SMALL, hosts("h200:1")).reshards and choose(pair, QWEN_7B, hosts("h200:2")).reshards


def test_the_generators_share_holds_its_graphs_beside_the_cache_of_every_response() -> None:
    wanted = recipe("grpo", batch_size=32, max_length=1024)
    plan = choose(wanted, QWEN_SMALL, hosts("h200:1"))
    assert plan.cuda_graphs and plan.rollout_memory_share is not None and wanted.reinforcement is not None
    responses = 32 * wanted.reinforcement.samples_per_prompt
    cache = responses * 1024 * 24 * 2 * 2 * 64 * 2
    # The share is cut to a thousandth of the device.
    least = 2 * plan.parameters + cache + CONSTANTS.cuda_graphs - plan.device_memory_bytes / 1000
    assert plan.rollout_memory_share * plan.device_memory_bytes > least


def test_packing_needs_flash_attention() -> None:
    plain = choose(recipe(resources={"devices": 8}), QWEN_7B, hosts("h100:8"))
    packed = choose(recipe(resources={"devices": 8}), QWEN_7B, hosts("h100:8", flash_attention=True))
    assert plain.token_budget is None and packed.token_budget is not None and packed.token_budget >= 2048


def test_a_refusal_ranks_what_would_help_and_it_does() -> None:
    asked = recipe(resources={"device_kind": "gpu"}, max_length=8192)
    found = report(asked, QWEN_7B, hosts("rtx 4090:2"))
    assert found.problem and found.problem.code == ErrorCode.PLAN_DOES_NOT_FIT and not found.plans
    assert found.remedies and all(remedy.price for remedy in found.remedies)
    for remedy in found.remedies:
        if remedy.field and remedy.value and " and " not in remedy.change:
            section, name = remedy.field.split(".")
            settings = asked.settings()
            settings[section][name] = remedy.value
            assert choose(Recipe.model_validate(settings), QWEN_7B, hosts("rtx 4090:2"))


def test_a_calibrated_margin_widens_at_once_and_narrows_late() -> None:
    asked = recipe(resources={"device_kind": "gpu", "micro_batch_size": 4})
    group = "H200:sft"

    def upper(interval: Interval | None) -> int:
        margins = {} if interval is None else {group: interval}
        return choose(asked, QWEN_SMALL, hosts("h200"), margins=margins).memory_upper_bytes

    plain = upper(None)
    assert upper(Interval(0.9, 1.3, 3)) > plain
    assert upper(Interval(0.99, 1.01, 3)) == plain
    assert upper(Interval(0.99, 1.01, 100)) < plain


def request(asked: Recipe, failed: Plan, **facts: Any) -> ReplanRequest:
    return ReplanRequest(recipe=asked, dataset=SET, failed=failed, **facts)


def test_replanning_steps_down_and_keeps_the_batch() -> None:
    asked, where = recipe(max_length=4096), hosts("h200:2")
    plan = choose(asked, QWEN_SMALL, where)
    seen = [plan]
    for _ in range(30):
        try:
            plan = replan(request(asked, plan, measured_peak_bytes=plan.memory_upper_bytes), QWEN_SMALL, where)
        except LtpError as error:
            assert error.code is ErrorCode.PLAN_DOES_NOT_FIT and error.hint
            break
        assert plan.memory_upper_bytes < seen[-1].memory_upper_bytes
        assert plan.micro_batch_size * plan.accumulation * plan.devices == 64
        seen.append(plan)
    assert 2 < len(seen) < 30
    assert seen[1].micro_batch_size < seen[0].micro_batch_size and seen[1].devices == seen[0].devices


def test_replanning_for_the_room_there_is() -> None:
    asked, where = recipe(), hosts("h200")
    plan = choose(asked, QWEN_SMALL, where)
    smaller = replan(request(asked, plan, reason="no-room", free_bytes=16 * GIB), QWEN_SMALL, where)
    assert smaller.memory_upper_bytes <= 16 * GIB
    with pytest.raises(LtpError):
        replan(request(asked, plan, reason="no-room", free_bytes=GIB), QWEN_SMALL, where)


@pytest.mark.parametrize("text", ["h300:8", "h100:0", "h100:-1", "h100:many", "", "h100:99999999999999999999", ":8"])
def test_hardware_that_does_not_exist(text: str) -> None:
    with pytest.raises(LtpError) as caught:
        described_host(text)
    assert caught.value.code is ErrorCode.INVALID_REQUEST and caught.value.hint


def test_the_nearest_names_are_given() -> None:
    with pytest.raises(LtpError, match="no accelerator 'h20'"):
        lookup("h20")
    with pytest.raises(LtpError) as caught:
        lookup("RTX 4080")
    assert "RTX-4090" in caught.value.hint


def test_the_table_is_whole_and_drivers_names_are_known() -> None:
    assert all(
        row.source and row.memory_bytes > 10 * GIB and row.flops > 1e12 and row.bandwidth > 1e11 for row in TABLE
    )
    names = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "NVIDIA H200", "Tesla T4")
    assert [row.name for name in names if (row := recognise(name))] == [
        "A100-80GB",
        "H100-SXM",
        "RTX-4090",
        "H200",
        "T4",
    ]
    assert recognise("Radeon 9") is None
