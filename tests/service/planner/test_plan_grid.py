"""Every plan of a grid of recipes and hardware is one that the installed verl accepts, and one that keeps verl's unchecked rules."""

from __future__ import annotations

import contextlib
import io
from itertools import islice

import pytest

pytest.importorskip("verl")

from ltp.core.errors import LtpError
from ltp.planning.choice import report
from ltp.planning.constraints import rules, violations
from ltp.planning.pools import described_host
from ltp.verl_recipe.verl_0_9 import planned_overrides
from tests.plan_grid import Case, Verl, cases, facts_of_config

pytestmark = pytest.mark.training
# Of the grid's 1,344 combinations, mixed: enough that 500 recipes have a plan.
SAMPLE, WHOLE, ALL = 20, 800, 500


@pytest.fixture(scope="module")
def verl() -> Verl:
    return Verl()


def planned(verl: Verl, case: Case, most: int) -> int:
    """Check the best plan and up to `most` - 1 of those behind it; returns how many there were."""
    found = report(case.recipe, case.arch, [described_host(case.hardware, flash_attention=case.flash_attention)])
    last = len(found.plans) - 1
    plans = [found.plans[n] for n in list(dict.fromkeys((0, last // 2, last)))[:most] if found.plans]
    for plan in plans:
        overrides = planned_overrides(case.recipe, plan)
        assert len({o.partition("=")[0] for o in overrides}) == len(overrides)
        config = verl.compose(case.recipe.algorithm, overrides)
        with contextlib.redirect_stdout(io.StringIO()):
            verl.validate(case.recipe.algorithm, config)
        facts = facts_of_config(case.recipe.algorithm, config, case.arch, case.recipe.training.batch_size, plan.devices)
        assert violations(facts) == [], (case, plan)
        assert plan.memory_upper_bytes <= plan.device_memory_bytes
    return len(plans)


def count(verl: Verl, wanted: int | None, most: int) -> tuple[int, int]:
    """Recipes for which there is a plan, and plans that were checked."""
    recipes = plans = 0
    for case in islice(cases(), wanted):
        try:
            found = planned(verl, case, most)
        except LtpError as error:
            assert "training.batch_size" in error.hint, error
            continue
        plans, recipes = plans + found, recipes + (found > 0)
    return recipes, plans


def test_a_sample_of_the_grid(verl: Verl) -> None:
    recipes, _ = count(verl, SAMPLE, most=1)
    assert recipes > SAMPLE / 2


@pytest.mark.slow
def test_the_whole_grid(verl: Verl) -> None:
    recipes, plans = count(verl, WHOLE, most=2)
    assert recipes >= ALL and plans > recipes, (recipes, plans)


def test_all_thirty_rules_are_there() -> None:
    assert [number for number, _ in rules()] == list(range(1, 31))
