"""The replay's word: narrow plans that it finds no room for are not planned, wide ones are never asked about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltp.contracts.values import Plan
from ltp.planning.choice import report
from ltp.planning.pools import described_host, pools_of
from ltp.planning.search import search
from ltp.planning.second_opinion import confirmed, opinion
from tests.plan_grid import architecture
from tests.unit.planning.recipes import recipe as recipe_with


def test_a_narrow_plan_is_kept_only_where_its_allocations_have_room() -> None:
    recipe, arch = recipe_with(batch_size=32, max_length=2048), architecture("qwen2.5-0.5b")
    (pool,) = pools_of([described_host("h200")], "gpu", 1)
    found = search(recipe, arch, [pool])
    wide = max(found.fitting, key=lambda candidate: candidate.estimate.upper_bytes)
    # As if the closed form had promised that it just fits into two thirds of what it needs, or into all of it and some blocks lost between.
    for share, kept in ((0.67, 0), (1.2, 1)):
        room = int(wide.estimate.bytes * share)
        narrow = replace(
            wide, pool=replace(pool, free_bytes=room), estimate=replace(wide.estimate, upper_bytes=int(room * 0.99))
        )
        found.fitting = [narrow]
        assert len(confirmed(recipe, arch, [narrow], found)) == kept
        assert len(found.fitting) == kept
    assert "replay" in found.rejected[-1].reason


def test_the_replay_of_a_plan_is_near_its_prediction() -> None:
    recipe, arch = recipe_with(batch_size=32, max_length=2048), architecture("qwen2.5-0.5b")
    made: Plan = report(recipe, arch, [described_host("h200")]).plans[0]
    exact = opinion(recipe, arch, made)
    assert exact is not None
    assert exact.allocated == pytest.approx(made.memory_bytes - made.memory_components["context"], rel=0.03)
    assert opinion(recipe, arch, made.model_copy(update={"offload": "all"})) is None
