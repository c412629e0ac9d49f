"""Choosing a checkpoint: ties within the uncertainty, scores that are missing, and shares of averages."""

from __future__ import annotations

import math

import pytest

from ltp.contracts.checkpoint_recipes import AverageRecipe, SelectRecipe, check_checkpoint_recipe
from ltp.core.averaging import ema_weights, first_out_of_order, greedy_soup
from ltp.core.errors import LtpError
from ltp.core.selection import Candidate, Rule, SelectionError, select, stderr_of_interval, stderr_of_share


def candidates(*scores: float | None, stderr: float | None = None) -> list[Candidate]:
    return [Candidate(f"step-{n}", score, stderr, n) for n, score in enumerate(scores, start=1)]


def test_without_uncertainty_the_best_wins_and_the_earliest_of_equals() -> None:
    assert select(candidates(0.5, 0.7, 0.7, 0.6), Rule()).chosen == 1
    assert select(candidates(0.5, 0.7, 0.7, 0.6), Rule(tie="latest")).chosen == 2
    assert select(candidates(0.5, 0.7, 0.4), Rule(direction="min")).chosen == 2


def test_a_difference_within_the_uncertainty_is_a_tie() -> None:
    # Two standard errors of 0.03 make 0.0424 together: 0.68 ties with 0.7, and 0.65 does not.
    found = select(candidates(0.65, 0.68, 0.7, stderr=0.03), Rule())
    assert (found.chosen, found.best, found.tied) == (1, 2, [1, 2])
    assert select(candidates(0.65, 0.68, 0.7, stderr=0.03), Rule(tie="best")).chosen == 2
    assert select(candidates(0.65, 0.68, 0.7, stderr=0.03), Rule(within=0)).chosen == 2
    assert select(candidates(0.65, 0.68, 0.7, stderr=0.03), Rule(within=2)).chosen == 0


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_missing_score_is_refused_or_passed_over(bad: float | None) -> None:
    with pytest.raises(SelectionError, match="step-2"):
        select(candidates(0.5, bad), Rule())
    found = select(candidates(bad, 0.5, bad), Rule(nan="skip"))
    assert (found.chosen, found.skipped) == (1, [0, 2])
    with pytest.raises(SelectionError, match="no candidate"):
        select(candidates(bad), Rule(nan="skip"))


def test_the_order_given_decides_where_no_step_is_known() -> None:
    assert select([Candidate("a", 1.0), Candidate("b", 1.0)], Rule()).chosen == 0
    later_first = [Candidate("a", 1.0, step=9), Candidate("b", 1.0, step=3)]
    assert select(later_first, Rule()).chosen == 1


def test_standard_errors() -> None:
    assert stderr_of_share(0.5, 100) == pytest.approx(0.05)
    assert stderr_of_interval(0.4, 0.6) == pytest.approx(0.0510, abs=1e-4)


def test_ema_weights_are_those_of_the_recursion() -> None:
    values, mean = [3.0, 1.0, 4.0, 1.5], 3.0
    for value in values[1:]:
        mean = 0.9 * mean + 0.1 * value
    weights = ema_weights(4, 0.9)
    assert sum(weights) == pytest.approx(1)
    assert sum(w * v for w, v in zip(weights, values, strict=True)) == pytest.approx(mean)
    assert ema_weights(1, 0.5) == [1.0]


def test_steps_out_of_order_are_found() -> None:
    assert first_out_of_order([1, None, 2, 3]) is None
    assert first_out_of_order([1, None, 3, 2]) == 3
    assert first_out_of_order([2, 2]) == 1


def test_a_greedy_soup_keeps_what_does_not_hurt() -> None:
    # 1 is best; with 2 it is better still; 0 makes it worse; 3 has diverged and is never tried.
    table = {(1,): 2.0, (1, 2): 1.8, (1, 2, 0): 1.9}
    members, trials = greedy_soup([3.0, 2.0, 2.5, math.inf], table.__getitem__)
    assert members == [1, 2]
    assert [(t.members, t.kept) for t in trials] == [((1,), True), ((1, 2), True), ((1, 2, 0), False)]
    with pytest.raises(ValueError, match="finite"):
        greedy_soup([math.nan], lambda _: 0.0)
    assert greedy_soup([1.0, 2.0], lambda members: math.nan if len(members) > 1 else 1.0)[0] == [0]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"models": []}, "models"),
        ({"models": ["a", "b"], "method": "last_k"}, "needs k"),
        ({"models": ["a", "b"], "k": 1}, "k does not belong to uniform"),
        ({"models": ["a", "b"], "method": "last_k", "k": 0}, "k"),
        ({"models": ["a", "b"], "method": "ema", "decay": 1.0}, "decay"),
        ({"models": ["a", "b"], "method": "interpolate", "alpha": 1.5}, "alpha"),
        ({"models": ["a", "b"], "method": "greedy_soup"}, "held_out"),
        ({"models": ["a", "b"], "metod": "ema"}, "metod"),
        ({"models": ["a", "b"], "method": "median"}, "method"),
    ],
)
def test_averages_that_mean_nothing_are_refused(recipe: dict[str, object], said: str) -> None:
    with pytest.raises(LtpError, match=said):
        check_checkpoint_recipe("average", recipe)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"models": ["a", "a"]}, "twice"),
        ({"models": ["a", "b"], "method": "last_k", "k": 3}, "k is 3"),
        ({"models": ["a", "b"], "method": "weighted", "weights": [1.0]}, "1 values"),
        ({"models": ["a", "b"], "method": "weighted", "weights": [1.0, -1.0]}, "zero"),
        ({"models": ["a", "b"], "method": "weighted", "weights": [1.0, float("nan")]}, "NaN"),
        ({"models": ["a", "b", "c"], "method": "interpolate", "alpha": 0.5}, "2 models"),
    ],
)
def test_averages_that_do_not_fit_their_models_are_refused(recipe: dict[str, object], said: str) -> None:
    with pytest.raises(LtpError, match=said):
        AverageRecipe.model_validate(recipe).check_members()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"candidates": []}, "candidates"),
        ({"candidates": [{"model": "a", "score": 1}, {"model": "a", "score": 2}]}, "twice"),
        ({"candidates": [{"model": "a", "score": 1}], "selected_on": "test", "reported_on": "test"}, "another split"),
        ({"candidates": [{"model": "a", "score": 1, "low": 0}]}, "low and high"),
        ({"candidates": [{"model": "a", "score": 0.5, "low": 0, "high": 1, "rows": 9}]}, "one of"),
        ({"candidates": [{"model": "a", "score": 7, "rows": 9}]}, "share"),
        ({"candidates": [{"model": "a", "score": 1}], "within": -1}, "within"),
    ],
)
def test_selections_that_mean_nothing_are_refused(recipe: dict[str, object], said: str) -> None:
    with pytest.raises(LtpError, match=said):
        check_checkpoint_recipe("select", recipe)


def test_members_and_their_weights() -> None:
    def members(**more: object) -> list[tuple[str, float]]:
        return AverageRecipe.model_validate({"models": ["a", "b", "c"]} | more).members()

    assert members() == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert members(method="last_k", k=2) == [("b", 1.0), ("c", 1.0)]
    assert members(method="weighted", weights=[1, 2, 3]) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    two = AverageRecipe.model_validate({"models": ["a", "b"], "method": "interpolate", "alpha": 0.25})
    assert two.members() == [("a", 0.75), ("b", 0.25)]
    assert SelectRecipe.model_validate({"candidates": [{"model": "a", "score": 0.5, "rows": 100}]}).candidates[
        0
    ].candidate().stderr == pytest.approx(0.05)
